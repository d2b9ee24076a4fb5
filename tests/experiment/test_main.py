"""The command line: bad input is one line on standard error, status 2 and nothing half-written."""

import json
import signal
import subprocess
import sys
import time

import jax
import pytest
import small_data
from small_data import write_config, write_folder

from fedjax_rec import __version__, data
from fedjax_rec.experiment import asked, config, explain, listing
from fedjax_rec.experiment import run as running
from fedjax_rec.experiment.main import main
from fedjax_rec.experiment.shipped import found


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with `tiny/tiny.inter` and `tiny.yaml`, and a cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("FEDJAX_REC_DATA", raising=False)
    write_config(tmp_path / "tiny.yaml", write_folder(tmp_path / "tiny"))
    return tmp_path


def fails(place, capsys, *words, status: int = 2, config: str = "tiny.yaml") -> str:
    """The one line that `run` ends with; nothing is written."""
    before = {p for p in place.rglob("*") if "cache" not in p.parts}
    words = ["run", str(place / config), "--out", str(place / "out"), "--quiet", *words]
    assert main(words) == status
    out, err = capsys.readouterr()
    assert out == "" and "Traceback" not in err and len(err.splitlines()) == 1
    assert err.startswith("fedjax-rec: ")
    assert {p for p in place.rglob("*") if "cache" not in p.parts} == before
    return err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--data.source=/nowhere/at/all"], "/nowhere/at/all does not exist"),
        (["--data.source=ml-1kk"], "did you mean 'ml-100k'"),
        (["--cohorts.size=61"], "uniform(size=61) asks for more clients than the 60 there are"),
        (["--rond=3"], "rond is no key"),
        (["--model.widht=3"], "(did you mean 'model.init_args.width'?)"),
        (["--rounds=0"], "use rounds >= 1"),
        (["--evaluation.metrics=[hr@0]"], "hr@0"),
        (["--evaluation.metrics=[hits@5]"], "did you mean 'hr@5'"),
        (["--evaluation.candidates=sampled"], "takes 198 items, and user"),
        (["--model.width=0"], "fedmf(width=0)"),
        (["--data.implicit=false", "--data.split=global_time", "--data.split.test=1"],
         "global_time(validation=0.1, test=1.0)"),
        (["--data.clients=by_hash"], "data.clients: by_hash() missing"),
        (["--data.implicit=false"], "examples=fedjax_rec.data.pointwise does not read them"),
        (["--data.implicit=false", "--examples=sequences"], "examples=fedjax_rec.data.sequences"),
        (["--data.source=synthetic", "--data.above=3"],
         "data.above=3.0 asks for ratings, and 'synthetic' has none"),
        (["--data.core=50"], "core"),
        (["--strategy.server=optax.adamm"], "(did you mean 'adam'?)"),
        (["--overwrite=maybe"], "maybe"),
        (["--seed=null"], "seed=null is no number; use seed: 0"),
        (["--examples=pairwise"], "pairs with objective=models.bpr()"),
        (["--data.source={file}"], "unknown extension '.yaml'; save it as CSV"),
        (["stray.yaml"], "'stray.yaml' is no option"),
    ],
)  # fmt: skip
def test_bad_words_are_one_line(place, capsys, words, told):
    words = [word.format(file=place / "tiny.yaml") for word in words]
    assert told in fails(place, capsys, *words)


def test_a_folder_without_a_name_and_a_device_that_jax_has_not(place, capsys, monkeypatch):
    assert main(["run", str(place / "tiny.yaml"), "--out", ""]) == 2
    assert "--out '' names no folder" in capsys.readouterr().err
    monkeypatch.setenv("JAX_PLATFORMS", "gpu")
    monkeypatch.setattr(jax, "devices", lambda: (_ for _ in ()).throw(RuntimeError("no gpu. x")))
    line = fails(place, capsys)
    assert "JAX_PLATFORMS=gpu: jax finds no such device (no gpu)" in line and "unset" in line


def test_a_missing_configuration(place, capsys):
    assert "absent.yaml: there is no such" in fails(place, capsys, config="absent.yaml")


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ("u1\ti2\tlots\t5", "tiny.inter:8:"),
        ("u1\ti2", "tiny.inter:8:"),
        ("u1\t\t3\t5", "tiny.inter:8:"),
        ("u1\ti2\t3\tnan", "tiny.inter:8:"),
    ],
)
def test_a_malformed_row_is_named_by_its_line(place, capsys, row, told):
    file = place / "tiny" / "tiny.inter"
    lines = file.read_text().splitlines()
    lines.insert(7, row)
    file.write_text("\n".join(lines) + "\n")
    assert told in fails(place, capsys)


def test_an_empty_data_file(place, capsys):
    (place / "tiny" / "tiny.inter").write_text("")
    assert "tiny.inter" in fails(place, capsys)


def test_a_user_with_too_few_interactions(place, capsys):
    with open(place / "tiny" / "tiny.inter", "a") as file:
        file.write("lonely\ti3\t4\t9999\n")
    line = fails(place, capsys)
    assert "user 'lonely' has 1" in line and "k_core" in line


def test_an_out_that_is_a_file_or_someone_elses_folder(place, capsys):
    (place / "out").write_text("mine")
    assert "exists and is no run folder" in fails(place, capsys)
    (place / "out").unlink()
    (place / "out").mkdir()
    (place / "out" / "thesis.tex").write_text("")
    assert "exists and is no run folder" in fails(place, capsys)


def test_debug_shows_the_traceback(place):
    for words in (["--rounds=0"], ["--cohorts.size=61"]):
        with pytest.raises(ValueError):
            main(["run", str(place / "tiny.yaml"), "--debug", "--out", str(place / "out"), *words])


def test_an_unforeseen_error_says_how_to_see_more(place, capsys, monkeypatch):
    def broken(config):
        raise ZeroDivisionError("one\ntwo")

    monkeypatch.setattr(running, "prepare", broken)
    line = fails(place, capsys, status=1)
    assert "ZeroDivisionError: one two (--debug shows where)" in line


@pytest.mark.parametrize("error", [MemoryError("state takes 9 GiB"), PermissionError(13, "no")])
def test_errors_of_the_machine_are_one_line(place, capsys, monkeypatch, error):
    def broken(config):
        raise error

    monkeypatch.setattr(running, "prepare", broken)
    fails(place, capsys)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["rnu"], "rnu is no command (did you mean 'run'?)"),
        (["run"], "required: config"),
        (["data"], "required: action"),
        (["data", "got"], "got"),
        (["data", "get"], "data get needs a name"),
        (["data", "get", "ml-1kk"], "ml-1kk"),
        (["report"], "required: folders"),
        (["report", "/nowhere/at/all"], "/nowhere/at/all"),
    ],
)
def test_commands_without_what_they_need(place, capsys, words, told):
    assert main(words) == 2
    err = capsys.readouterr().err
    assert told in err and len(err.splitlines()) == 1


def test_help_and_version(capsys):
    assert main(["--help"]) == 0 and "fedjax-rec run CONFIG" in capsys.readouterr().out
    assert main([]) == 2
    assert main(["--version"]) == 0 and __version__ in capsys.readouterr().out
    assert main(["run", "--help"]) == 0 and "--debug" in capsys.readouterr().out


def test_data_list_and_get_describe(place, capsys, monkeypatch):
    monkeypatch.setenv("FEDJAX_REC_DATA", str(place))
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["data", "list"]) == 0
    out = capsys.readouterr().out
    assert "ml-100k" in out and "tiny" in out
    for name in ("tiny", str(place / "tiny")):
        assert main(["data", "get", name]) == 0
        out = capsys.readouterr().out
        assert str(small_data.USERS) in out and str(small_data.ITEMS) in out


def test_ctrl_c_in_a_callback_is_honoured(monkeypatch, capsys):
    """As while libraries are imported: Python drops what is raised where nobody can catch it."""

    class Callback:
        def __del__(self):
            signal.raise_signal(signal.SIGINT)

    def command(words):
        thing = Callback()
        del thing
        end = time.time() + 10
        while time.time() < end:
            time.sleep(0.01)
        return 0

    monkeypatch.setattr(sys.modules[main.__module__], "_data", command)
    # As in a terminal: what runs in the background may begin with the signal ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert main(["data"]) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    assert capsys.readouterr().err == "fedjax-rec: stopped; the last checkpoint is kept.\n"


COUNTING = """
from dataclasses import replace

import jax.numpy as jnp
from fedjax_rec import models
from fedjax_rec.types import Model


def plain_mean(num_items: int, members: int = 1, width: int = 4) -> Model:
    model = models.fedmf(num_items, members, width=width)

    def loss(shared, private, batch, key):
        return model.loss(shared, private, {**batch, "mask": jnp.ones_like(batch["mask"])}, key)

    return replace(model, loss=loss)
"""


def test_a_loss_that_counts_padding_is_refused_before_anything_is_written(
    place, capsys, monkeypatch
):
    (place / "lab").mkdir()
    (place / "lab" / "countinglab.py").write_text(COUNTING)
    monkeypatch.syspath_prepend(place / "lab")
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    told = fails(place, capsys, "--model=countinglab.plain_mean", "--rounds=1")
    assert "model.loss (countinglab.plain_mean.<locals>.loss) counts padding" in told


def test_options_may_stand_before_the_file_and_flags_alone(place, capsys):
    words = ["--rounds", "1", "--overwrite", str(place / "tiny.yaml"), "--quiet", "--out"]
    assert main(["run", *words, str(place / "run")]) == 0
    assert main(["run", "--overwrite", "false", *words[3:], str(place / "run"), "--rounds=1"]) == 0
    capsys.readouterr()
    assert main(["run", str(place / "tiny.yaml"), "--out", str(place / "run"), "--json",
                 "--rounds=1"]) == 0  # fmt: skip
    out, _ = capsys.readouterr()
    told = json.loads(out)
    assert told["totals"]["rounds"] == 1 and told["folder"] == str(place / "run")


@pytest.mark.parametrize("words", [["help"], ["--help"], ["help", "run"], ["help", "recommend"],
                                   ["list"], ["run", "--model", "pfedrec", "--help"]])  # fmt: skip
def test_help_is_where_it_is_looked_for(capsys, words):
    try:
        status = main(words)
    except SystemExit as ended:  # argparse
        status = ended.code
    out = capsys.readouterr().out
    assert status == 0 and "fedjax-rec" in out
    if "pfedrec" in words:
        assert "--model.width  (default 32)" in out
    if words == ["help"]:
        assert "130 stopped" in out and "explain KEY" in out


def test_it_is_a_module_too():
    done = subprocess.run(
        [sys.executable, "-m", "fedjax_rec", "--version"], capture_output=True, text=True
    )
    assert done.stdout.strip() == f"fedjax-rec {__version__}"


def test_shipped_configurations_are_found_from_anywhere(place, capsys, monkeypatch):
    monkeypatch.chdir(place)
    for name in ("quickstart", "configs/quickstart.yaml", "compression/fedmf"):
        assert found(name).is_file()
    assert main(["run", "quickstrat"]) == 2
    assert "did you mean 'quickstart'" in capsys.readouterr().err
    (place / "quickstart").mkdir()
    assert found("quickstart").is_file()


def test_a_first_configuration_is_one_that_is_read(place, capsys, monkeypatch):
    monkeypatch.chdir(place)
    assert main(["init"]) == 0
    assert "fedjax-rec run first.yaml" in capsys.readouterr().out
    made, shipped = (config.read(x).plain for x in ("first.yaml", "quickstart"))
    different = {"rounds", "evaluation"}
    assert {k: v for k, v in made.items() if k not in different} == {
        k: v for k, v in shipped.items() if k not in different
    }
    assert main(["init"]) == 2 and "is there already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("key", "words", "text", "default"),
    [
        ("seed", [], "of everything random", "default: 0"),
        ("rounds", [], "in all", "default: 100"),
        ("evaluation.metrics", [], "on validation, chooses", "default: [hr@10"),
        ("strategy.uplink", [], "a compressor; null sends updates as they are", "default: null"),
        ("--strategy.mu", ["--strategy", "fedprox"], "0 is `fedavg`", "default: 0.01"),
        ("strategy.init_args.uplink.fraction", ["--strategy.uplink=top_k"], "of the coordinates",
         "default: 0.01"),
        ("evaluation.every", [], "rounds between measurements", "default: 1"),
        ("data.split", [], "A user's last interaction", "leave_one_out"),
        ("privacy.epsilon", [], "what the noise is found for", "default: null"),
    ],
)  # fmt: skip
def test_a_key_is_explained(capsys, key, words, text, default):
    assert main(["explain", key, *words]) == 0
    out = capsys.readouterr().out
    assert text in out and default in out and "source: " in out


@pytest.mark.parametrize(
    ("key", "told"),
    [
        ("evaluation.evry", "did you mean 'evaluation.every'"),
        ("strategy.upllink", "did you mean 'uplink'"),
        ("sed", "did you mean 'seed'"),
        ("median", "is no key of the configuration; see docs/configuration.md, or fedjax-rec list"),
    ],
)
def test_a_key_that_is_none_is_not_explained(capsys, key, told):
    assert main(["explain", key]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert told in line


def test_every_key_of_the_reference_is_explained():
    for key in dict(explain._comments()):
        assert explain.explain(key).text


@pytest.mark.parametrize("kind", listing.kinds())
def test_what_may_be_named_is_listed_and_read(capsys, monkeypatch, place, kind):
    monkeypatch.setenv("FEDJAX_REC_DATA", str(place))
    assert main(["list", kind, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert rows and all(row["name"] and row["about"] for row in rows)
    known = {"strategies": "fedprox", "compressors": "top_k", "aggregators": "median",
             "models": "pfedrec", "data": "ml-100k", "configs": "quickstart"}  # fmt: skip
    assert known.get(kind, rows[0]["name"]) in [row["name"] for row in rows]


def test_listings_of_data_know_all_splits_and_partitions():
    parts = {name for name in data.__all__ if name in {*listing.SPLITS, *listing.PARTITIONS}}
    assert parts == {*listing.SPLITS, *listing.PARTITIONS}
    made = {name for name in data.__all__ if name.startswith(("by_", "cold_", "warm_"))}
    assert made <= parts


@pytest.mark.parametrize(
    ("words", "factory"),
    [
        (["--strategy.uplink=top_k", "--strategy.uplink.fraction=0.1"],
         "fedjax_rec.compress.top_k"),
        (["--strategy.uplink={class_path: error_feedback, init_args: {compressor: eden}}"],
         "fedjax_rec.compress.eden"),
        (["--strategy.server", "adam", "--strategy.server.learning_rate=0.1"], "optax.adam"),
        (["--strategy.server", "fed_adam"], "fedjax_rec.strategies.fed_adam"),
        (["--strategy.clock", "lognormal_clock"], "fedjax_rec.strategies.lognormal_clock"),
        (["--strategy=fedavg", "--strategy.optimizer=sgd",
          "--strategy.optimizer.learning_rate=0.5"], "fedjax_rec.clients.sgd"),
    ],
)  # fmt: skip
def test_short_names_do_wherever_a_part_goes(words, factory):
    assert factory in json.dumps(config.read(None, words).plain["strategy"])


def test_another_short_name_keeps_what_both_take():
    words = ["--strategy.uplink=fedjax_rec.compress.top_k", "--strategy.uplink.fraction=0.3"]
    kept = config.read(None, [*words, "--strategy.uplink=random_k"]).plain["strategy"]
    assert kept["init_args"]["uplink"]["class_path"] == "fedjax_rec.compress.random_k"
    assert kept["init_args"]["uplink"]["init_args"]["fraction"] == 0.3


def test_a_short_name_that_is_none_is_named(place, capsys):
    line = fails(place, capsys, "--strategy.uplink=top_kk")
    assert "strategy.uplink=top_kk names no factory (did you mean 'top_k'?)" in line


def test_what_is_explained_is_said():
    """A key without a line of its own is one that a section or a factory tells of."""
    sections = {"data", "model", "examples", "strategy", "cohorts", "evaluation", "privacy"}
    silent = [k for k in list(explain.keys()) if explain.explain(k).text == "a section of keys"]
    assert set(silent) <= sections


def test_a_table_that_is_too_wide_is_written_row_below_row(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    titles, row = [f"title {i}" for i in range(14)], [f"a long value {i}" for i in range(14)]
    asked._print(titles, [row, row], narrow=True)
    out = capsys.readouterr().out
    assert out.count("title 13  a long value 13") == 2
    asked._print(titles[:2], [row[:2]], narrow=True)
    assert capsys.readouterr().out.count("\n") == 2
