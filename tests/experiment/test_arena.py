"""The arena: attacks on defences as runs, what is refused as a row, the table and the map."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml
from matplotlib.colors import to_rgb
from small_data import USERS, timeless, write_config, write_folder
from test_report import fake_run

from fedjax_rec.data.sources.sources import find
from fedjax_rec.experiment import arena, config
from fedjax_rec.experiment.config import ConfigError
from fedjax_rec.experiment.main import main
from fedjax_rec.experiment.prepare import prepare
from fedjax_rec.report.arena import Score, Scores, drawn, section
from fedjax_rec.report.heat_map import Panel, heat_map
from fedjax_rec.report.reading import read_run

pytestmark = pytest.mark.usefixtures("compiled_fast", "quick")
ROOT = Path(__file__).resolve().parents[2]
ML_100K = find("ml-100k")  # before tests have a cache of their own
A, G = "fedjax_rec.attacks", "fedjax_rec.aggregate"
NOBODY = {"class_path": f"{A}.drawn", "init_args": {"num_clients": USERS, "share": 0.0}}
LIARS = {"class_path": f"{A}.drawn", "init_args": {"num_clients": "{clients}", "share": "{share}"}}
RULE = "strategy.aggregator.aggregator"


def forged(name: str, **arguments) -> dict:
    return {
        "strategy.aggregator": f"{A}.attacked",
        "strategy.aggregator.malicious": LIARS,
        "strategy.aggregator.attack": {"class_path": f"{A}.{name}", "init_args": arguments},
    }


def rule(name: str, **arguments) -> dict:
    return {RULE: {"class_path": f"{G}.{name}", "init_args": arguments}}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("arena")
    watched = {"aggregator": {"class_path": f"{G}.total"}, "malicious": NOBODY}
    strategy = {"aggregator": {"class_path": f"{A}.with_detection", "init_args": watched}}
    write_config(
        place / "tiny.yaml", write_folder(place / "tiny"), checkpoint_every=0, keep_best=False,
        strategy={"class_path": "fedjax_rec.strategies.fedmf", "init_args": strategy},
        evaluation={"metrics": ["hr@5", "ndcg@5", "er@5"], "targets": [39]},
    )  # fmt: skip
    return place


def file(place: Path, name: str = "arena.yaml", **changes) -> dict:
    """Writes and gives a file of two attacks on two defences, one of which stands few clients."""
    keys = {
        "section": "Mine", "page": str(place / "page.md"), "figure": str(place / "images/a.png"),
        "out": str(place / "runs"), "config": str(place / "tiny.yaml"), "set": {"rounds": 1},
        "shares": [0.1, 0.5], "seeds": [0],
        "attacks": {"none": {}, "ipm": forged("ipm", scale=5.0)},
        "defences": {"total": {}, "krum": rule("multi_krum", f="{f}")},
        **changes,
    }  # fmt: skip
    (place / name).write_text(yaml.safe_dump(keys, sort_keys=False))
    return keys


def test_pairs_are_runs_and_refusals_rows_on_a_page(place, monkeypatch, capsys):
    """20 of 60 clients a round. Of 30 added who lie up to 10 are in one, whom Krum does not stand:
    where there is room for them, no round moves."""
    monkeypatch.chdir(place)
    more = {"total": {}, "fixed": rule("multi_krum", f=2), "krum": rule("multi_krum", f="{f}")}
    file(place, defences=more, shares=[0.5], set={"rounds": 1})
    assert main(["arena", "arena.yaml", "--workers", "1"]) == 0
    told = capsys.readouterr()
    for name in ("none,total-0", "none,fixed-0", "ipm,total,share=0.5-0"):
        assert f"runs/{name}: finished" in told.err
    found = pl.read_csv(place / "runs/arena.csv").to_dicts()
    rows = {(x["attack"], x["defence"]): x for x in found}
    assert list(rows) == [(a, d) for a in ("none", "ipm") for d in more]
    for attack in ("none", "ipm"):
        row = rows[attack, "krum"]
        assert row["hr@5"] is None and row["ended"].startswith("refused: ")
    base, ipm, fixed = rows["none", "total"], rows["ipm", "total"], rows["ipm", "fixed"]
    assert (base["malicious"], ipm["malicious"]) == (0, 30)
    assert ipm["lost"] == pytest.approx((base["hr@5"] - ipm["hr@5"]) / 30)
    assert ipm["gained"] == pytest.approx((ipm["er@5"] - base["er@5"]) / 30)
    (record,) = timeless(place / "runs" / "ipm,fixed,share=0.5-0")
    assert ipm["precision"] is None and fixed["recall"] == record["detection_recall"]
    page = (place / "page.md").read_text()
    assert "<!-- section: Mine -->" in page and "![attacks against defences](images/a.png)" in page
    assert "| ipm | krum | 30 |" in page and (place / "images/a.png").stat().st_size > 5000
    # The same again plays nothing of what is there, and a part of it writes no page.
    before = {path: path.stat().st_mtime_ns for path in (place / "runs").rglob("summary.json")}
    (place / "page.md").unlink()
    words = ["--defences", "fixed", "--attacks=ipm", "--json"]
    assert main(["arena", "arena.yaml", "--workers", "1", *words]) == 0
    assert len(json.loads(capsys.readouterr().out)["pairs"]) == 4
    assert before == {path: path.stat().st_mtime_ns for path in before} and len(before) >= 4
    assert not (place / "page.md").exists()
    assert main(["arena", "arena.yaml", "--workers", "1", *words, "--page"]) == 0
    assert "arena.yaml --defences total,fixed`" in (place / "page.md").read_text()


def test_a_run_of_it_is_that_of_run(place, monkeypatch):
    """The folder is one that `run` goes on from, and is of the same configuration."""
    monkeypatch.chdir(place)
    keys = file(place, "other.yaml", shares=[0.1], out=str(place / "others"))
    (bout,) = [
        b for b in arena.bouts(arena.read_arena(keys)) if (b.attack, b.defence) == ("ipm", "krum")
    ]
    plain = bout.trial.config.plain["strategy"]["init_args"]["aggregator"]
    assert plain["class_path"] == f"{A}.attacked"
    liars = plain["init_args"]["malicious"]["init_args"]
    assert (liars["num_clients"], liars["share"]) == (USERS, 0.1)
    # 6 of 66 lie, of whom 20 are in a round: four at most, 39 times of 40.
    assert plain["init_args"]["aggregator"]["init_args"]["f"] == 4
    assert prepare(bout.trial.config).dataset.num_clients == USERS


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"attack": {}}, "attack is no key (did you mean 'attacks'?)"),
        ({"defences": {}}, "defences is missing; add it"),
        ({"attacks": {"ipm": forged("ipm")}}, "attacks: ipm comes first and attacks"),
        ({"attacks": {"none": {}, "ipm": 3}}, "attacks: ipm=3 is no mapping"),
        ({"shares": [0.1, 1.5]}, "shares=[0.1, 1.5] is no such list"),
        ({"seeds": [0, 0]}, "seeds=[0, 0] has one twice"),
        ({"page": None}, "section and page stand together"),
        ({"config": "nowhere.yaml"}, "nowhere.yaml"),
        ({"attacks": {"none": {}, "x": forged("impm")}}, "attack x: "),
        ({"defences": {"total": {}, "x": rule("medain")}}, "(did you mean 'median'?)"),
        ({"defences": {"total": {}, "x": rule("krum", f="{g}")}}, "{g} stands for nothing; use"),
        ({"defences": {"total": {}, "x": {"strategy.agregator": 1}}}, "defence x: "),
        ({"defences": {"total": {}, "x": rule("norm_bound", bound=-1.0)}}, "norm_bound(bound=-1"),
        ({"attacks": {"none": {}, "x": rule("median")},
          "defences": {"total": {"rounds": 3}, "y": rule("median")}}, None),
    ],
)  # fmt: skip
def test_what_a_file_says_wrong_is_one_line_before_anything_runs(place, capsys, changes, told):
    """What attack and defence both set is a row of its own, since other pairs can be made."""
    file(place, "bad.yaml", out=str(place / "bad"), **changes)
    status = main(["arena", str(place / "bad.yaml"), "--dry-run"])
    out, err = capsys.readouterr()
    assert not (place / "bad").exists()
    if told is None:
        assert status == 0 and "x / y: refused: strategy.aggregator.aggregator is set by" in out
        return
    assert status == 2 and told in err and len(err.splitlines()) == 1 and not out


def test_a_file_plays_some_of_another(place, capsys):
    """As that one says, but for runs, section, shares and seeds of its own."""
    keys = file(place, "whole.yaml", out=str(place / "whole"))
    part = {"of": str(place / "whole.yaml"), "out": str(place / "part"), "seeds": [0, 1]}

    def read(**more):
        (place / "part.yaml").write_text(yaml.safe_dump({**part, **more}))
        return arena.read_arena(place / "part.yaml")

    assert [*read(defences=["krum"]).defences] == ["krum"]  # which others would be held against
    found, whole = read(defences=["total", "krum"]), arena.read_arena(keys)
    assert [*found.attacks.items()] == [*whole.attacks.items()]
    assert [*found.defences.items()] == [*whole.defences.items()]
    assert (found.set, found.shares, found.seeds) == (whole.set, whole.shares, (0, 1))
    assert (found.out, found.section, found.figure) == (str(place / "part"), None, None)
    ours, theirs = ({b.trial.out.name: b.trial.config.plain for b in arena.bouts(x) if b.trial}
                    for x in (found, whole))  # fmt: skip
    assert len(ours) == 2 * len(theirs) and theirs.items() <= ours.items()
    for more, told in (
        ({"attacks": ["ipn"]}, "--attacks ipn: is none of the file (did you mean 'ipm'?)"),
        ({"attacks": {"none": {}}}, "is no such list; write attacks: [none, ipm]"),
        ({"defences": []}, "defences=[] is no such list"),
        ({"set": {"rounds": 2}}, "set is no key"),
        ({"section": "Mine"}, "section and page stand together"),
        ({"of": "nowhere.yaml"}, "nowhere.yaml: there is no such file of an arena"),
    ):
        with pytest.raises(ConfigError, match=re.escape(told)):
            read(**more)


def test_names_that_the_file_has_not(place, capsys):
    file(place)
    assert main(["arena", str(place / "arena.yaml"), "--attacks", "ipn"]) == 2
    assert "--attacks ipn: is none of the file (did you mean 'ipm'?)" in capsys.readouterr().err
    assert main(["arena", str(place / "no.yaml")]) == 2
    assert "there is no such file of an arena" in capsys.readouterr().err


def test_stages_of_both_stand_one_after_the_other(place):
    stage = lambda name, **more: {
        "class_path": f"{A}.{name}", "init_args": {"malicious": LIARS, **more}
    }  # fmt: skip
    keys = file(
        place, "stages.yaml", shares=[0.1],
        attacks={"none": {}, "flip": {"strategy.stages": [stage("sign_flip")]}},
        defences={"none": {}, "clip": {"strategy.stages": [stage("scaled", factor=0.5)]}},
    )  # fmt: skip
    last = arena.bouts(arena.read_arena(keys))[-1]
    stages = last.trial.config.plain["strategy"]["init_args"]["stages"]
    assert [one["class_path"].rpartition(".")[2] for one in stages] == ["scaled", "sign_flip"]


@pytest.mark.parametrize(
    "path", sorted((ROOT / "configs/arena").glob("*.yaml")), ids=lambda p: p.stem
)
def test_every_pair_of_the_shipped_files_is_read(path, monkeypatch):
    """Whatever the data; and the picture and the page are where they say."""
    if "ml100k" in path.stem and ML_100K is None:
        pytest.skip("some attacks know a part of MovieLens-100K, which is not here")
    if ML_100K is not None:
        monkeypatch.setenv("FEDJAX_REC_DATA", str(ML_100K.parent))
    monkeypatch.chdir(ROOT)
    found = replace(arena.read_arena(path), shares=(0.05,), seeds=(0,))
    honest = found.set["strategy.aggregator"]["init_args"]["malicious"]["init_args"]["num_clients"]
    dataset = type("Dataset", (), {"num_clients": honest})
    monkeypatch.setattr(arena, "read_data", lambda config: type("Read", (), {"dataset": dataset}))
    (nobody, *_), (nothing, *_) = found.attacks, found.defences
    attacked, defended = (replace(found, **{kind: {first: {}}}) for kind, first in
                          (("defences", nothing), ("attacks", nobody)))  # fmt: skip
    every = [*arena.bouts(attacked), *arena.bouts(defended)]
    assert [b.refused for b in every if b.trial is None] == []
    assert len(every) == len(found.attacks) + len(found.defences)
    assert Path(found.page).is_file() and found.figure.startswith("docs/robustness/")
    text = Path(found.page).read_text()
    if f"<!-- section: {found.section} -->" in text:
        assert Path(found.figure).is_file()


def test_the_file_of_the_page_is_read(monkeypatch):
    monkeypatch.chdir(ROOT)
    text = (ROOT / "docs/robustness.md").read_text()
    (block,) = [x for x in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL) if "attacks:" in x]
    dataset = type("Dataset", (), {"num_clients": 943})
    monkeypatch.setattr(arena, "read_data", lambda config: type("Read", (), {"dataset": dataset}))
    every = arena.bouts(arena.read_arena(yaml.safe_load(block)))
    assert len(every) == 3 * 2 * 4 and all(bout.trial for bout in every)
    # The one that mentions neither a share nor f is the same under both shares.
    assert len({bout.trial.out for bout in every if bout.trial}) == 3 * (2 * 4 - 1)


# What a map and a section say, of runs that were made up.


@pytest.fixture
def scores(tmp_path):
    """One attack that halves quality and pushes, and one that diverged, against two defences."""

    def of(attack, defence, levels, er, ends=()):
        runs = []
        for seed, level in enumerate(levels):
            folder = fake_run(tmp_path / f"{attack}-{defence}-{seed}", seed, level)
            summary = json.loads((folder / "summary.json").read_text())
            lines = [json.loads(x) for x in (folder / "metrics.jsonl").read_text().splitlines()]
            for record in (*lines, summary["best"], summary["final"]):
                record["er@10"] = er
            lines[1]["er@10"] = er + 0.1
            (folder / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
            (folder / "summary.json").write_text(json.dumps(summary))
            runs.append(read_run(folder))
        return Score(attack, defence, 0.05, 10, tuple(runs), ends)

    lost = (("diverged", "round 3: the loss is nan"),)
    return Scores(
        (
            of("none", "total", (0.8, 0.8), 0.0), of("none", "krum", (0.7,), 0.0),
            of("push", "total", (0.4, 0.4), 0.9), of("push", "krum", (), 0.0, lost),
        ),
        ("none", "push"), ("total", "krum"), (0.05,),
    )  # fmt: skip


def test_a_table_has_damage_of_one_liar_and_says_what_ended(scores):
    none, _, push, gone = scores.table().to_dicts()
    assert push["gained"] == pytest.approx(0.09) and none["gained"] is None
    assert push["lost"] == pytest.approx((none["hr@10"] - push["hr@10"]) / 10)
    assert push["highest er@10"] == pytest.approx(1.0)
    assert gone["hr@10"] is None and gone["ended"] == "diverged: round 3: the loss is nan"
    lines = "\n".join(section(scores, "mine.yaml", "a.png"))
    assert "| attack | defence | liars | HR@10 | NDCG@10 | ER@10 | highest ER@10 |" in lines
    assert (
        "| 0.9000 ± 0.0000 | 1.0000 | 0.0900 |" in lines and "`fedjax-rec arena mine.yaml`" in lines
    )


def test_a_map_writes_its_numbers_so_that_they_can_be_read(scores):
    figure = drawn(scores)
    exposed, lost = (ax for ax in figure.axes if ax.get_title())
    texts = [[text.get_text() for text in ax.texts] for ax in (exposed, lost)]
    assert texts[0] == ["0.000", "0.000", "0.900", "diverged"]
    best = scores.table()["hr@10"].to_list()
    assert texts[1] == ["0.000", *(f"{best[0] - x:.3f}" for x in best[1:3]), "diverged"]
    assert [x.get_text() for x in exposed.get_yticklabels()] == ["none", "push"]
    assert exposed.texts[0].get_color() == "black" and exposed.texts[2].get_color() == "white"


def test_darker_is_more_in_grey_as_well_and_below_zero_is_white():
    values = np.array([[-0.2, 0.0, 0.3, 0.6, 1.0, 2.0]])
    for colours in ("Blues", "Oranges"):
        figure = heat_map(
            [Panel("x", values, [[""] * 6], colours)], ["a"], list("abcdef"), "d", "a"
        )
        image = figure.axes[0].images[0]
        light = image.to_rgba(values)[0, :, :3] @ [0.2126, 0.7152, 0.0722]
        assert light[0] == light[1] > light[2] > light[3] > light[4] == light[5]
        for text, shade in zip(figure.axes[0].texts, light, strict=True):
            ink = np.dot(to_rgb(text.get_color()), [0.2126, 0.7152, 0.0722])
            assert abs(ink - shade) > 0.4
        assert figure.axes[0].texts[0].get_text() == "\u22120.200"


def test_nothing_to_draw_is_said(tmp_path):
    empty = Scores((Score("none", "total", 0.1, 1, ()),), ("none",), ("total",), (0.1,))
    with pytest.raises(ValueError, match="no run of the arena finished"):
        drawn(empty)


def test_a_file_is_read_from_python_as_well(place):
    with pytest.raises(ConfigError, match="arena: config is missing"):
        arena.read_arena({"attacks": {"none": {}}, "defences": {"x": {}}})
    assert config.read(place / "tiny.yaml").rounds == 5
