"""Files of runs: those that ship are the runs behind the page of results, and bad ones one line."""

from pathlib import Path

import pytest
import yaml
from small_data import write_config, write_folder

from fedjax_rec.experiment import config, series
from fedjax_rec.experiment.choices import choose
from fedjax_rec.experiment.config import ConfigError
from fedjax_rec.experiment.main import main
from fedjax_rec.experiment.overrides import merge
from fedjax_rec.experiment.runs import read_runs

ROOT = Path(__file__).resolve().parents[2]
SEEDS = (0, 1, 2)


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def published(seed):
    for policy in ("paper", "train", "symmetric"):
        where = f"results/pfedrec-100k-{policy}"
        yield where, "pfedrec_ml100k", "pfedrec_ml100k", f"--data.negatives {policy}"
    for name in ("fedmf_ml100k", "fedncf_ml100k", "pfedrec_ml1m"):
        yield f"results/{name}", name, name, ""


def compression(seed):
    """One run a word, as the table calls it: a choice or file, and what differs from it."""
    thrice = (
        "none hundredfold power_sgd,uplink.compressor.rank=2 colr,rank=32,item_learning_rate=10 "
        "colr,rank=16,item_learning_rate=7 colr,rank=8 colr,rank=4,item_learning_rate=3 "
        "colr,rank=2,item_learning_rate=2 colr,rank=1,item_learning_rate=1"
    )
    once = (
        "both_ways,downlink.fraction=0.002 eden,uplink.bits=4 eden,uplink.bits=2 "
        "eden,uplink.bits=1 colr_eden svd "
        "top_k,uplink.compressor.fraction=0.05 top_k,uplink.compressor.fraction=0.01 "
        "top_k_forgetful"
    )
    for line in (thrice if seed else f"{thrice} {once}").split():
        kind, *more = line.split(",")
        words = " ".join(f"--strategy.{one}" for one in more)
        file = "colr" if kind.startswith("colr") else "fedmf"
        picked = {"colr": "", "colr_eden": "--choose eden"}.get(kind, f"--choose {kind}")
        yield f"compression/{line}", line, f"compression/{file}", f"{picked} {words}"


def strategies(seed):
    for path in sorted((ROOT / "configs/strategies").glob("*.yaml")):
        name = path.stem
        yield f"strategies/{name}", name, f"strategies/{name}", ""
        if name.endswith("_paper"):
            other = name.replace("_paper", "_train")
            yield f"strategies/{other}", other, f"strategies/{name}", "--data.negatives train"
    for server, rate in dict(
        fed_adagrad=0.1, fed_adam=0.01, fed_yogi=0.03, fed_avg_m=0.1, fed_lion=0.01
    ).items():
        words = f"--strategy.server fedjax_rec.strategies.{server}"
        words += f" --strategy.server.learning_rate {rate}"
        yield f"strategies/{server}", server, "strategies/fedavg", words


def rounds(seed):
    partial = (
        "--cohorts.class_path fedjax_rec.simulate.uniform --cohorts.init_args.size 94 "
        "--rounds 600 --evaluation.candidates full --evaluation.every 5 "
    )
    rate = "--strategy.server.init_args.learning_rate 150"
    yield "rounds/fedsgd", "fedsgd", "strategies/fedsgd", partial + rate
    for name, user, item, more in (
        ("fedavg", 10, 30, ""),
        ("fedavg_B=64", 10, 30, "--strategy.batch_size 64"),
        ("fedavg_E=5", 10, 30, "--strategy.epochs 5"),
        ("fedavg_E=5_B=64", 5, 15, "--strategy.epochs 5 --strategy.batch_size 64"),
        ("fedavg_E=5_B=all", 20, 60, "--strategy.epochs 5 --strategy.batch_size 4096"),
    ):
        local = "--strategy.optimizer.init_args.optimizers"
        words = f"{partial}{local}.private.init_args.learning_rate {user} "
        words += f"{local}.shared.init_args.learning_rate {item} {more}"
        yield f"rounds/{name}", name, "strategies/fedavg", words


def held_out(side, seed):
    return (
        "--data.split.init_args.split.class_path fedjax_rec.data.temporal_ratio "
        "--data.split.init_args.split.init_args.test 0.2 "
        f"--data.split.class_path fedjax_rec.data.{side}_items --data.split.init_args.seed {seed} "
    )


def references(seed):
    for name in ("popularity", "item_knn", "ease", "ials"):
        yield f"reference/{name}", name, f"reference/{name}_ml100k", ""
        yield f"reference/{name}-1m", name, f"reference/{name}_ml1m", ""
        for side in ("cold", "warm"):
            called, words = f"{name}-{side}", held_out(side, seed)
            yield f"reference/{called}", called, f"reference/{name}_ml100k", words
    yield "reference/lightgcn", "lightgcn", "reference/lightgcn_ml100k", ""
    name = "fedmf_one_client"
    yield "one_client/fedmf", name, f"reference/{name}_ml100k", ""


def large(seed):
    if seed == 0:
        for name in ("sasrec_ml1m", "sasrec_ml1m_federated"):
            yield f"large/{name}", name, f"large/{name}", ""
        rate = "--strategy.optimizer.init_args.optimizers.table.init_args.learning_rate 1.0 "
        for kind, words in (
            ("dlrm", ""),
            ("dcn", f"{rate}--model.class_path dcn --model.layers 2 --model.deep=[32]"),
            ("deepfm", f"{rate}--model.class_path deepfm --model.deep=[32]"),
        ):
            yield f"large/{kind}_clicks", f"{kind}_clicks", "large/clicks", words
        words = (
            "--rounds 120 --evaluation.every 20 --examples.negatives 1 "
            "--model.loss fedjax_rec.models.sampled_bce --examples.each true"
        )
        yield "large/sasrec_ml1m_bce", "sasrec_ml1m_bce", "large/sasrec_ml1m", words
    sequential = [f"{name}_ml100k" for name in ["bert4rec", "gru4rec", "hstu", "sasrec", "unisrec"]]
    for name in ("text_head", *sequential):
        yield f"large/{name}", name, f"large/{name}", ""
    own = {
        "fedsa_lora": "--model.b private --evaluation.candidates sampled --evaluation.every 150",
        "hetlora": "--strategy.ranks=[2,4,8]",
        "ffa_lora": "--strategy.optimizer.optimizers.layers.learning_rate 0.1",
    }
    rules = ("fedit", "flora", "fedex_lora", "flexlora", "hetlora", "rolora", "fed_sb", "ffa_lora")
    for rule in (*rules, "fedsa_lora"):
        words = f"--strategy {rule} {own.get(rule, '')} --start_from runs/large/text_head-{seed}"
        yield f"large/adapters_{rule}", f"adapters_{rule}", "large/adapters", words
    for side in ("cold", "warm"):
        for name, file, more in (
            ("fedmf", "strategies/fedavg", ""),
            ("text_tower", "large/text_tower", ""),
            ("text_and_rows", "large/text_and_rows", ""),
            ("unisrec", "large/unisrec_ml100k", "--model.components=128 --model.projector=[]"),
        ):
            words = f"--rounds 60 --evaluation.every 5 {held_out(side, seed)}{more}"
            yield f"large/{name}-{side}", f"{name}-{side}", file, words


def prompts(seed):
    keep, still = "--model.keep runs/states ", "--strategy.optimizer.learning_rate 1e-12 "
    shots = f"--data.source.init_args.seed {seed} --data.source.shots "
    few = {"16": (16, 10, 40), "64": (64, 5, 15), "256": (256, 2, 8)}
    for name, (number, every, count) in few.items():
        if seed > 1 or (seed and name != "256"):
            continue
        words = f"{keep}{shots}{number} --evaluation.every {every} --rounds {count}"
        yield f"prompts/tallrec_{name}", f"tallrec_{name}", "large/tallrec", words
    if seed < 2:
        words = f"{keep}{shots}256 --model.counts 3 --evaluation.every 2 --rounds 8 "
        words += "--strategy.optimizer.class_path fedjax_rec.clients.groups"
        for part, rate in (("line", 0.05), ("decoder", 0.003)):
            key = f"--strategy.optimizer.init_args.optimizers.{part}"
            words += f" {key}.class_path optax.adam {key}.init_args.learning_rate {rate}"
        yield "prompts/tallrec_256_and_counts", "tallrec_256_and_counts", "large/tallrec", words
    if seed == 0:
        base = f"{keep}{still}--data.source.shots 16 --evaluation.every 1 --rounds 1"
        lists = f"{base} --data.source.words fedjax_rec.data.liked_and_disliked"
        for name, words in (("zero_shot", base), ("zero_shot_lists", lists)):
            yield f"prompts/tallrec_{name}", f"tallrec_{name}", "large/tallrec", words
        for name in ("zero_shot_chat", "zero_shot_less_title", "zero_shot_less_history"):
            words = f"{keep}--choose {name}"
            yield f"prompts/tallrec_{name}", f"tallrec_{name}", "large/tallrec", words
        columns = {"liked_share": "[0]", "item_mean": "[1]", "user_mean": "[2]"}
        for name in ("all_three", *columns):
            words = f"--model.columns={columns[name]}" if name in columns else ""
            yield f"prompts/counting_{name}", f"counting_{name}", "large/counting", words


def said(path: str | Path, words: list[str]) -> dict:
    """What a configuration says with its choice and overrides, before it is made."""
    raw, _, words = choose(config.raw_of(path), words)
    return merge(raw, words)


@pytest.mark.parametrize(
    "loop",
    [published, compression, strategies, rounds, references, large, prompts],
    ids=lambda f: f.__name__,
)
def test_the_shipped_runs_are_those_of_the_page(loop):
    wanted = {}
    for seed in SEEDS:
        for out, name, file, words in loop(seed):
            plain = said(f"configs/{file}.yaml", f"--name {name} --seed {seed} {words}".split())
            wanted[f"runs/{out}-{seed}"] = plain
    runs = {
        run.out: said(run.config, run.options())
        for run in read_runs(f"configs/runs/{loop.__name__}.yaml").runs
    }
    assert runs.keys() == wanted.keys()
    for out, plain in wanted.items():
        assert runs[out] == plain, out


def test_every_file_of_runs_has_its_section_of_a_page():
    for path in (ROOT / "configs/runs").glob("*.yaml"):
        plan = read_runs(path)
        page = (ROOT / plan.page).read_text()
        if plan.section is None:  # it looks for numbers, and writes none
            continue
        assert f"<!-- section: {plan.section} -->" in page
        assert plan.targets is None or (ROOT / plan.targets).is_file()
        made = {place for run in plan.runs for place in (run.out, str(Path(run.out).parent))}
        assert made & set(plan.folders)


@pytest.mark.parametrize("name", ["ledgers/leaks", "arena/ml100k"])
def test_what_other_commands_write_is_on_its_page(name):
    """A merge once lost a section in silence."""
    told = yaml.safe_load((ROOT / f"configs/{name}.yaml").read_text())
    page = (ROOT / told["page"]).read_text()
    assert f"<!-- section: {told['section']} -->" in page
    assert (ROOT / told["figure"]).is_file() and Path(told["figure"]).name in page


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with `tiny.yaml` and its data, where the command is given."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_config(
        tmp_path / "tiny.yaml", write_folder(tmp_path / "tiny"), rounds=1,
        choices={"wide": {"model.width": 8}, "narrow": {"model.width": 2}},
    )  # fmt: skip
    return tmp_path


def written(place: Path, **keys) -> Path:
    (path := place / "runs.yaml").write_text(yaml.safe_dump(keys, sort_keys=False))
    return path


def test_what_is_swept_is_every_combination_and_named(place):
    entry = {"config": "tiny.yaml", "name": "mf", "set": {"rounds": 2}, "start_from": "at/{seed}"}
    entry["sweep"] = {"model.width": [2, 3], "cohorts.size": [5, 6]}
    path = written(place, seeds=[0, 4], set={"rounds": 7, "audit": 1}, runs=[entry, "tiny.yaml"])
    runs = read_runs(path).runs
    grid = [f"mf,width={width},size={size}" for width in (2, 3) for size in (5, 6)]
    assert [run.name for run in runs] == [*grid, "tiny"] * 2
    assert [run.out for run in runs[5:7]] == [f"runs/{name}-4" for name in grid[:2]]
    last = said("tiny.yaml", runs[8].options())
    assert last["model"]["init_args"]["width"] == 3 and last["cohorts"]["init_args"]["size"] == 6
    assert (last["rounds"], last["audit"], last["start_from"]) == (2, 1, "at/4")
    assert runs[9].overrides == {"rounds": 7, "audit": 1}


def test_a_value_is_put_whole_where_it_is_all_of_the_text(place):
    split = {"class_path": "fedjax_rec.data.cold_items", "init_args": {"seed": "{seed}"}}
    entry = {"config": "tiny.yaml", "set": {"data.split": split}}
    run = read_runs(written(place, seeds=[3], runs=[entry])).runs[0]
    assert said(run.config, run.options())["data"]["split"]["init_args"]["seed"] == 3


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({}, "has no list of runs"),
        ({"runs": "tiny.yaml"}, "has no list of runs"),
        ({"runs": ["tiny.yaml"], "seed": [0]}, "seed is no key (did you mean 'seeds'?)"),
        ({"runs": [{"config": "tiny.yaml", "sed": [0]}]}, "1: sed is no key (did you mean"),
        ({"runs": ["tiny.yaml", "tinny.yaml"]}, "run 2: config=tinny.yaml is no file"),
        ({"runs": [{"name": "a"}]}, "run 1: config=None is no file"),
        ({"runs": [3]}, "run 1: 3 is no run"),
        ({"runs": ["tiny.yaml", "tiny.yaml"]}, "two runs called tiny and tiny go to runs/tiny-0"),
        ({"runs": ["tiny.yaml"], "out": "runs/{nam}"}, "1: {nam} stands for nothing; use {"),
        ({"runs": ["tiny.yaml"], "seeds": 3}, "run 1: seeds=3 is no such list"),
        ({"runs": ["tiny.yaml"], "seeds": ["a"]}, "seeds=['a'] is no such list"),
        ({"runs": ["tiny.yaml"], "folders": "runs"}, "folders=runs is no such list"),
        ({"runs": ["tiny.yaml"], "set": [1]}, "set=[1] is no mapping"),
        ({"runs": [{"config": "tiny.yaml", "sweep": {"rounds": []}}]}, "sweep of rounds is []"),
        ({"runs": ["tiny.yaml"], "set": {"seed": 1}}, "run 1: seed is no override here; use seeds"),
        ({"runs": [{"config": "tiny.yaml", "set": {"rond": 1}}]}, "rond is no key of the"),
        ({"runs": [{"config": "tiny.yaml", "set": {"choose": "wid"}}]}, "did you mean 'wide'"),
    ],
)  # fmt: skip
def test_bad_files_are_one_line_and_nothing_runs(place, capsys, keys, told):
    assert main(["runs", str(written(place, **keys))]) == 2
    out, err = capsys.readouterr()
    assert (
        out == "" and told in err and len(err.splitlines()) == 1 and not (place / "runs").exists()
    )


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--only", "tinny"], "--only tinny: no run is called so (did you mean 'tiny'?)"),
        (["--seeds", "5"], "--seeds 5: no such seed; the runs have 0, 1"),
        (["--sees", "5"], "--sees"),
    ],
)
def test_bad_words_are_one_line(place, capsys, words, told):
    assert main(["runs", str(written(place, seeds=[0, 1], runs=["tiny.yaml"])), *words]) == 2
    assert told in capsys.readouterr().err


def test_an_absent_file_is_named(place, capsys):
    assert main(["runs", "absent.yaml"]) == 2
    assert "absent.yaml: there is no such file of runs" in capsys.readouterr().err


def test_a_dry_run_prints_commands_that_run_reads(place, capsys):
    entry = {"config": "tiny.yaml", "name": "{choose}", "sweep": {"choose": ["wide", "narrow"]}}
    assert main(["runs", str(written(place, runs=[entry])), "--dry-run", "--only", "wide"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    expected = "fedjax-rec run tiny.yaml --out runs/wide-0 --seed=0 --name=wide --choose=wide"
    assert line == expected and not (place / "runs").exists()


@pytest.mark.usefixtures("compiled_fast")
def test_a_series_runs_what_is_not_finished_and_writes_its_section(place, capsys):
    entry = {"config": "tiny.yaml", "name": "{choose}", "sweep": {"choose": ["wide", "narrow"]}}
    keys = dict(section="Widths", page="page.md", folders=["runs"], runs=[entry])
    plan, given = read_runs(written(place, **keys)), []

    def start(words):
        given.append(words[:2])
        return main(words)

    assert series.run_series(plan, plan.only(["wide"]), start) == 0
    assert "section 'Widths' stays as it is; it lacks runs/narrow-0." in capsys.readouterr().out
    assert series.run_series(plan, plan.runs, start) == 0
    assert "[1/2] runs/wide-0: finished\n[2/2] runs/narrow-0\n" in capsys.readouterr().out
    assert given == [["run", "tiny.yaml"]] * 2 + [["report", "runs"]]
    page = (place / "page.md").read_text()
    assert "| wide |" in page and "| narrow |" in page and (place / "page/widths.yaml").is_file()
    # More rounds are not yet there; another configuration's folder is none to go on in.
    more = read_runs(written(place, set={"rounds": 2}, runs=[entry]))
    assert not series.is_finished(more.runs[0])
    other = read_runs(written(place, set={"data.core": 2}, runs=[entry]))
    with pytest.raises(ValueError, match=r"another configuration \(different: data.core\)"):
        series.is_finished(other.runs[0])


@pytest.mark.usefixtures("compiled_fast")
def test_what_a_run_learned_is_written_once(place, capsys):
    path = written(place, runs=[{"config": "tiny.yaml", "export": True}])
    plan, given = read_runs(path), []

    def start(words):
        given.append(words[0])
        return main(words)

    assert series.run_series(plan, plan.runs, start) == 0 and given == ["run", "export"]
    file = place / "runs/tiny-0/weights.safetensors"
    assert file.is_file() and series.run_series(plan, plan.runs, start) == 0 and len(given) == 2
    file.unlink()
    assert series.run_series(plan, plan.runs, lambda words: 5) == 5
    capsys.readouterr()
    assert main(["runs", str(path), "--dry-run"]) == 0
    assert "\nfedjax-rec export runs/tiny-0 --out runs/tiny-0\n" in capsys.readouterr().out
    with pytest.raises(ConfigError, match=r"export=weights is no yes or no; write export: true"):
        read_runs(written(place, runs=[{"config": "tiny.yaml", "export": "weights"}]))


def test_the_first_failure_ends_a_series(place):
    plan = read_runs(written(place, fetch=["tiny"], seeds=[0, 1, 2], runs=["tiny.yaml"]))
    given = []
    start = lambda words: given.append(words[0]) or (7 if given.count("run") == 2 else 0)
    assert series.run_series(plan, plan.runs, start) == 7 and given == ["data", "run", "run"]


def test_what_a_run_before_it_will_leave_may_be_absent(place, monkeypatch):
    """As the vectors that prompts are made of, which a run of the same series learns."""
    entries = [{"config": "tiny.yaml", "name": "first"}, {"config": "tiny.yaml", "name": "second"}]
    plan, lacking = read_runs(written(place, runs=entries)), ["runs/first-0/weights.safetensors"]
    plain, started = config.read, []

    def read(path, options):
        if "--name=second" in options and lacking:
            raise ConfigError(f"data.source: there is no {lacking[0]}.")
        return plain(path, options)

    monkeypatch.setattr(config, "read", read)
    start = lambda words: started.append(words[0]) or 0
    assert series.run_series(plan, plan.runs, start) == 0 and started == ["run", "run"]
    lacking[:] = ["elsewhere/weights.safetensors"]
    with pytest.raises(ConfigError, match="there is no elsewhere"):
        series.run_series(plan, plan.runs, start)
    lacking[:] = ["runs/first-0/weights.safetensors"]
    with pytest.raises(ConfigError, match="there is no runs/first-0"):  # which is not to run here
        series.run_series(plan, plan.only(["second"]), start)


def test_a_process_of_its_own_ends_with_its_status(place):
    assert series._process(["run", "absent.yaml"]) == 2


def test_a_choice_is_laid_on_before_other_overrides(place):
    wide = config.read("tiny.yaml", ["--cohorts.size=3", "--choose", "wide"])
    assert wide.name == "tiny_wide" and wide.plain["model"]["init_args"]["width"] == 8
    other = config.read("tiny.yaml", ["--model.width", "5", "--choose=wide", "--name", "mine"])
    assert other.name == "mine" and other.plain["model"]["init_args"]["width"] == 5
    assert "choices" not in config.read("tiny.yaml").plain
    again = config.read(config.raw_of("tiny.yaml"), ["--choose=wide", "--cohorts.size=3"])
    assert again.plain == config.read("tiny.yaml", ["--choose=wide", "--cohorts.size=3"]).plain
    raw, name, rest = choose({"choices": {64: {"rounds": 3}}}, {"choose": "64", "seed": 1})
    assert raw == {"rounds": 3} and name == "64" and rest == {"seed": 1}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("choices: {a: {rounds: 2}}", r"--choose b: no such choice.*; use a\."),
        ("rounds: 2", "the file has no choices"),
        ("choices: [b]", r"choices=\['b'\] is no mapping"),
        ("choices: {b: 3}", "choices.b=3 is no mapping"),
        ("choices: {b: {rond: 3}}", "rond is no key of the configuration"),
    ],
)
def test_bad_choices_are_one_line(place, text, told):
    (place / "own.yaml").write_text(text)
    with pytest.raises(ConfigError, match=told):
        config.read("own.yaml", ["--choose", "b"])
