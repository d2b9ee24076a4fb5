import itertools
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from rich.console import Console

from fedjax_rec.evaluate import paired
from fedjax_rec.experiment.main import main
from fedjax_rec.report.comparison import compare, text_of
from fedjax_rec.report.reading import find_runs, group, read_run, unfinished
from fedjax_rec.report.results import results
from fedjax_rec.report.settings import differing
from fedjax_rec.report.tables import (
    by_metric,
    markdown,
    sets_of,
    table,
    tables,
    title,
    write_report,
)  # fmt: skip

USERS, VECTOR = 400, 4 * 32


def fake_run(
    folder: Path,
    seed: int = 1,
    level: float = 0.7,
    rounds: int = 60,
    *,
    negatives: str = "paper",
    data: str = "ml-100k",
    model: str = "pfedrec",
    strategy: str = "pfedrec",
    name: str = "pfedrec_ml100k",
    evaluation: str = "sampled-99",
    cohort: int = USERS,
    explicit: bool = False,
) -> Path:
    """A run folder as `fedjax-rec run` writes it: quality saturates, then falls a little."""
    draw = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    records = []
    for number in range(0, rounds + 1, 5):
        grown = level * (1 - 0.8 * np.exp(-number / 9)) - 0.0006 * max(number - 40, 0)
        hit, valid = grown + draw.normal(0, 0.006), grown + 0.02 + draw.normal(0, 0.006)
        sent = 5 * cohort * VECTOR * 50 if number else 0
        record = {
            "round": number,
            "seconds": 0.2 * number + 1.5,
            "loss": 0.69 * np.exp(-number / 25) + 0.05 + draw.normal(0, 0.002),
            "clients": cohort,
            "bytes_up": sent,
            "bytes_down": 2 * sent,
        }
        if explicit:
            record |= {"validation_rmse": 1.6 - valid, "rmse": 1.62 - hit}
        else:
            record |= {"validation_hr@10": valid, "validation_ndcg@10": 0.6 * valid}
            record |= {"hr@10": hit, "ndcg@10": 0.6 * hit + draw.normal(0, 0.003)}
        records.append({key: float(v) if key != "round" else v for key, v in record.items()})
    selected = "validation_rmse" if explicit else "validation_hr@10"
    best = (min if explicit else max)(records, key=lambda record: record[selected])
    totals = {key: sum(r[key] for r in records) for key in ("bytes_up", "bytes_down")}
    summary = {
        "name": name,
        "seed": seed,
        "final": records[-1],
        "best": best,
        "selected_by": selected,
        "totals": {"rounds": rounds, "seconds": records[-1]["seconds"], **totals},
        "data": {"name": data, "users": USERS, "items": 1682, "interactions": 100_000},
        "negatives": negatives,
        "evaluation": evaluation,
        "model": model,
        "strategy": strategy,
        "versions": {"fedjax_rec": "0.1.0", "jax": "0.10.2"},
        "device": "cpu, 2 cores",
    }
    config = {
        "data": {"source": data, "negatives": negatives},
        "strategy": {"class_path": f"fedjax_rec.strategies.{strategy}", "rounds": rounds},
        "model": model,
        "cohort": cohort,
        "evaluation": evaluation,
        "seed": seed,
        "out": str(folder),
    }
    (folder / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    activity = np.sort(draw.zipf(1.5, USERS).clip(1, 60) * 10)
    rank = draw.geometric(0.16 + 0.02 * draw.random(USERS)) + (draw.random(USERS) < 0.2) * 10
    hit = rank <= 10
    values = np.stack([hit, hit / np.log2(rank + 1)], axis=1).astype(np.float32)
    values[:3] = np.nan
    np.savez(
        folder / "per_user.npz",
        values=values,
        metrics=np.array(["hr@10", "ndcg@10"]),
        activity=activity,
        users=np.arange(USERS),
    )
    return folder


def edit(folder: Path, change) -> None:
    """`change(record)` in every record of a run folder, and its summary to match."""
    file, summary = folder / "metrics.jsonl", json.loads((folder / "summary.json").read_text())
    records = [json.loads(line) for line in file.read_text().splitlines()]
    for record in records:
        change(record)
    file.write_text("".join(json.dumps(r) + "\n" for r in records))
    summary["best"] = next(r for r in records if r["round"] == summary["best"]["round"])
    summary["final"] = records[-1]
    for key in ("bytes_up", "bytes_down"):
        summary["totals"][key] = sum(r[key] for r in records)
    (folder / "summary.json").write_text(json.dumps(summary))


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """Two configurations, three seeds of the first and two of the second."""
    root = tmp_path_factory.mktemp("runs")
    for seed in (1, 2, 3):
        fake_run(root / f"paper/seed{seed}", seed)
    for seed in (1, 2):
        fake_run(root / f"train/seed{seed}", seed, 0.53, negatives="train", cohort=100)
    return root


def best(folder: Path, metric: str) -> float:
    """Test metric at the best validation round, from the records alone."""
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return records[int(np.argmax([r["validation_hr@10"] for r in records]))][metric]


def cells(text: str) -> list[dict[str, str]]:
    """Rows of the first markdown table in a text, keyed by its header."""
    after = itertools.dropwhile(lambda line: not line.startswith("| "), text.splitlines())
    lines = list(itertools.takewhile(lambda line: line.startswith("| "), after))
    split = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert len({len(line) for line in split}) == 1, "rows of unequal length"
    return [dict(zip(split[0], line, strict=True)) for line in split[2:]]


def test_a_run_that_names_rejected_clients_is_read(tmp_path):
    """They are ids by round, in records and in the best one that the summary repeats."""
    folder, named = fake_run(tmp_path / "run"), {"rejected_clients": {"5": [3, 7]}}
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) | named for line in lines]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    summary = json.loads((folder / "summary.json").read_text())
    for name in ("best", "final"):
        summary[name] |= named
    (folder / "summary.json").write_text(json.dumps(summary))
    assert read_run(folder).records == records


def test_a_run_reads_back(runs):
    run = read_run(runs / "paper/seed1")
    assert run.column("round").tolist() == list(range(0, 61, 5))
    assert np.isnan(run.column("auc")).all()
    assert run.per_user is not None and run.per_user.metrics == ("hr@10", "ndcg@10")
    (again := run.folder / "per_user.npz").rename(held := run.folder / "held.npz")
    assert read_run(run.folder).per_user is None
    held.rename(again)


def test_only_seed_and_out_join_runs(runs):
    groups = group(find_runs([runs, runs / "paper"]))
    assert [[r.summary["seed"] for r in each.runs] for each in groups] == [[1, 2, 3], [1, 2]]
    assert [each.field("negatives") for each in groups] == ["paper", "train"]


def test_a_repeated_seed_does_not_narrow_the_spread(runs, tmp_path):
    fake_run(tmp_path / "again", 2, level=0.2)
    found = group(find_runs([runs / "paper", tmp_path]))
    assert len(found) == 1 and [run.folder.name for run in found[0].repeats] == ["again"]
    assert cells(markdown(found))[0]["seeds"] == "1, 2, 3"
    assert f"`{tmp_path / 'again'}` repeats seed 2" in markdown(found)


def test_the_markdown_agrees_with_numpy(runs):
    row, other = cells(markdown(group(find_runs([runs]))))
    for metric in ("hr@10", "ndcg@10"):
        values = [best(runs / f"paper/seed{seed}", metric) for seed in (1, 2, 3)]
        mean, deviation = np.mean(values), np.std(values, ddof=1)
        assert row[title(metric)] == f"{mean:.4f} ± {deviation:.4f}"
    assert row["rounds"] == "60" and row["model / strategy"] == "pfedrec / pfedrec"
    assert row["KiB up per client and round"] == f"{VECTOR * 50 / 1024:,.1f}"
    assert other["KiB up per client and round"] == row["KiB up per client and round"]
    assert row["KiB down per client and round"] == f"{2 * VECTOR * 50 / 1024:,.1f}"
    assert row["MiB up"] == f"{60 * USERS * VECTOR * 50 / 2**20:,.1f}"
    assert row["MiB down"] == f"{120 * USERS * VECTOR * 50 / 2**20:,.1f}"
    assert row["seconds"] == "13.5"


def test_one_seed_has_no_spread(runs):
    [row] = cells(markdown(group([read_run(runs / "paper/seed1")])))
    assert row["HR@10"] == f"{best(runs / 'paper/seed1', 'hr@10'):.4f}"


def test_explicit_runs_show_the_metric_that_chose_them(runs, tmp_path):
    fake_run(tmp_path / "mf", data="ml-1m", explicit=True, evaluation="ratings")
    row, explicit = cells(markdown(group(find_runs([runs / "paper", tmp_path]))))
    assert explicit["HR@10"] == "n/a" == row["RMSE"]
    assert 0.8 < float(explicit["RMSE"]) < 1.2


def swept(root: Path) -> list[Path]:
    """Runs of one name in folders of a sweep: rates 9, 10 and 100, two seeds each."""
    made = []
    for place, rate in enumerate((10, 9, 100)):
        for seed in (0, 1):
            folder = fake_run(root / f"rate={rate}-{seed}", seed, 0.4 + 0.1 * place)
            config = yaml.safe_load((folder / "config.yaml").read_text())
            config["strategy"]["init_args"] = {"item_learning_rate": float(rate)}
            (folder / "config.yaml").write_text(yaml.safe_dump(config))
            summary = json.loads((folder / "summary.json").read_text())
            summary["name"] = f"swept,item_learning_rate={rate}"
            (folder / "summary.json").write_text(json.dumps(summary))
            made.append(folder)
    return made


def test_a_sweep_has_a_column_of_what_differs_in_its_natural_order(tmp_path):
    swept(tmp_path)
    groups = group(find_runs([tmp_path]))
    rows = cells(markdown(groups))
    assert [row["item_learning_rate"] for row in rows] == ["9", "10", "100"]
    assert all(row["seeds"] == "0, 1" for row in rows)
    console = Console(width=160, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(tables(find_runs([tmp_path])))
    lines = [line.split("│") for line in console.export_text().splitlines() if "swept" in line]
    assert [[cell.strip() for cell in line[1:4]] for line in lines] == [
        ["swept", rate, "0, 1"] for rate in ("9", "10", "100")
    ]
    means = [np.mean(each.best("hr@10")) for each in by_metric(groups, "hr@10")]
    assert means == sorted(means, reverse=True) and len(means) == 3
    with pytest.raises(ValueError, match=r"--sort hr@11: no run measured it \(did you mean"):
        by_metric(groups, "hr@11")


def test_a_sorted_report_is_sorted_on_the_page_and_in_json(tmp_path, capsys):
    swept(tmp_path / "runs")
    out = tmp_path / "out"
    words = ["report", str(tmp_path / "runs"), "--out", str(out), "--sort", "hr@10", "--json"]
    assert main(words) == 0
    assert len(json.loads(capsys.readouterr().out)["runs"]) == 6
    found = [float(row["HR@10"].split()[0]) for row in cells((out / "report.md").read_text())]
    assert found == sorted(found, reverse=True)


def test_columns_are_of_the_keys_that_groups_differ_in(runs):
    assert differing(group(find_runs([runs]))) == {"negatives": ["paper", "train"],
                                                   "cohort": ["400", "100"]}  # fmt: skip


def test_the_terminal_table_has_a_row_per_run(runs):
    console = Console(width=140, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(table([read_run(runs / "paper/seed1"), read_run(runs / "train/seed2")]))
    text = console.export_text()
    for part in ("HR@10", f"{best(runs / 'paper/seed1', 'hr@10'):.4f}", "146.5", "36.6"):
        assert part in text


def test_the_report_is_a_page_with_its_pictures(runs, tmp_path):
    written = write_report([runs], tmp_path / "out")
    assert [path.name for path in written] == [
        "report.md",
        "tables.csv",
        "tables.tex",
        "learning_curve.png",
        "quality_bytes.png",
    ]
    text = written[0].read_text()
    assert "Written by `fedjax-rec report` at commit" in text and "jax 0.10.2" in text
    for link in re.findall(r"\]\((.*?)\)", text):
        assert (tmp_path / "out" / link).is_file()
    assert sorted(p.name for p in (tmp_path / "out").rglob("*.tmp")) == []


def test_other_data_gets_its_own_section(runs, tmp_path):
    fake_run(tmp_path / "runs/ml1m", data="ml-1m")
    written = write_report([runs, tmp_path / "runs"], tmp_path / "out")
    assert len(written) == 7
    assert re.findall("^## (.*)$", written[0].read_text(), re.M) == [
        "ml-100k, sampled-99",
        "ml-1m, sampled-99",
    ]


def test_runs_that_send_nothing_have_no_axis_of_bytes(tmp_path):
    fake_run(tmp_path / "runs/alone", name="local", cohort=0)
    written = write_report([tmp_path / "runs"], tmp_path / "out")
    assert [path.name for path in written] == [
        "report.md", "tables.csv", "tables.tex", "learning_curve.png",
    ]  # fmt: skip
    assert cells(written[0].read_text())[0]["KiB up per client and round"] == "0.0"


def targets(folder: Path, text: str) -> Path:
    (path := folder / "targets.yaml").write_text(text)
    return path


def test_a_section_is_written_and_the_rest_of_the_page_stays(runs, tmp_path):
    page = tmp_path / "results.md"
    page.write_text("# Results\n\nRead this first.\n")
    path, _ = results([runs], None, page, "One of them")
    alone = path.read_text()
    assert alone.startswith("# Results\n\nRead this first.\n\n<!-- section: One of them -->\n")
    assert "\n## One of them\n" in alone and "\n### Settings\n" in alone
    assert "](results/one_of_them.yaml)" in alone
    assert "# Settings of One of them," in (tmp_path / "results/one_of_them.yaml").read_text()
    results([runs], None, page, "The other")
    both = page.read_text()
    assert both.startswith(alone) and "\n## The other\n" in both
    results([runs / "paper"], None, page, "One of them")
    results([runs], None, page, "One of them")
    assert page.read_text() == both


def test_a_section_without_its_end_is_not_guessed(runs, tmp_path):
    page = tmp_path / "results.md"
    page.write_text("<!-- section: A -->\ntext")
    with pytest.raises(ValueError, match="lacks '<!-- end of section: A -->'"):
        results([runs], None, page, "A")
    assert page.read_text() == "<!-- section: A -->\ntext"


def test_what_a_target_notes_stands_below_the_table(runs, tmp_path):
    goal = "- match: {data: ml-100k, negatives: paper}\n  hr@10: [0.5, 1]\n  note: It leaks."
    path, _ = results([runs], targets(tmp_path, goal), tmp_path / "results.md")
    assert ": It leaks.\n" in path.read_text()


def test_a_target_may_be_a_note_alone(runs, tmp_path):
    text = "- match: {data: ml-100k, negatives: paper}\n  source: here\n  note: It leaks."
    path, _ = results([runs], targets(tmp_path, text), tmp_path / "results.md")
    noted = cells(path.read_text())[0]
    assert (noted["target"], noted["source"], noted["verdict"]) == ("", "here", "")
    assert ": It leaks.\n" in path.read_text()


def test_results_hold_runs_against_targets(runs, tmp_path):
    values = {
        m: [best(runs / f"paper/seed{s}", m) for s in (1, 2, 3)] for m in ("hr@10", "ndcg@10")
    }
    hit, gain = np.mean(values["hr@10"]), np.mean(values["ndcg@10"])
    written = targets(
        tmp_path,
        f"""
- match: {{data: ml-100k, model: fedjax_rec.models.PFedRec, negatives: paper}}
  hr@10: [{hit + 0.0199}, 0.02]
  ndcg@10: [{gain - 0.02}, 0.01]
  source: Zhang et al., 2023
- match: {{data: ml-1m}}
  hr@10: {{at_least: 0.652}}
""",
    )
    path, beside = results([runs], written, tmp_path / "docs/results.md")
    text = path.read_text()
    first, second, absent = cells(text)
    assert first["verdict"] == "HR@10 inside (-0.0199)<br>NDCG@10 outside (+0.0200)"
    assert first["source"] == "Zhang et al., 2023" and "± 0.02<br>" in first["target"]
    assert second["target"] == "none" and second["verdict"] == ""
    assert absent["verdict"] == "not run" and absent["target"] == "HR@10 ≥ 0.652"
    assert absent["data"] == "ml-1m"
    assert "do not edit by hand" in text and "cpu, 2 cores" in text
    # Settings stand beside the page; the second row's are what differs from the first's.
    assert "](results/settings.yaml)" in text and "cohort" not in text
    assert beside == tmp_path / "docs/results/settings.yaml"
    whole, other = (told := yaml.safe_load(beside.read_text())).values()
    assert list(told) == ["row 1", "row 2"] and "seed" not in whole["settings"]
    assert whole["run"] == "pfedrec_ml100k, ml-100k, paper" and whole["settings"]["cohort"] == USERS
    assert other["as"] == "row 1" and other["but"] == {"data.negatives": "train", "cohort": 100}
    assert results([runs], written, path)[0].read_text() == text


def test_results_may_aim_at_bytes_and_draw_the_trade_off(tmp_path):
    for place, cohort in enumerate((20, 40, 80)):
        folder = fake_run(tmp_path / f"runs/{place}", name=f"colr,rank={cohort}", cohort=cohort)
        # A cohort changes no bytes of a client: let them differ.
        edit(folder, lambda r, cohort=cohort: r.update(bytes_up=r["bytes_up"] * cohort))
    kib = 20 * VECTOR * 50 / 1024
    goal = f"- match: {{name: 'colr,rank=20'}}\n  kib_up: {{at_most: {kib + 1}}}\n"
    page, _, picture = results(
        [tmp_path / "runs"], targets(tmp_path, goal), tmp_path / "results.md"
    )
    rows = {row["run"]: row for row in cells(page.read_text())}
    assert rows["colr,rank=20"]["verdict"] == "KiB up inside (-1.0000)"
    assert rows["colr,rank=20"]["target"].startswith("KiB up ≤ ")
    assert rows["colr,rank=40"]["KiB up per client and round"] == f"{2 * kib:,.1f}"
    assert picture == tmp_path / "images/tradeoff_ml-100k.png" and picture.is_file()
    assert f"]({picture.relative_to(tmp_path)})" in page.read_text()


def test_results_without_targets(runs, tmp_path):
    path, _ = results([runs], None, tmp_path / "results.md")
    assert "verdict" not in cells(path.read_text())[0]


def test_the_edge_of_a_tolerance_is_inside(tmp_path):
    fake_run(tmp_path / "run")
    edge = best(tmp_path / "run", "hr@10")
    for goal, verdict in (
        (f"[{edge + 0.02}, 0.02]", "inside"),
        (f"{{at_least: {edge + 0.001}}}", "outside"),
        (f"{{at_most: {edge + 0.001}}}", "inside"),
    ):
        written = targets(tmp_path, f"- match: {{data: ml-100k}}\n  hr@10: {goal}\n")
        path, _ = results([tmp_path / "run"], written, tmp_path / "results.md")
        assert cells(path.read_text())[0]["verdict"].startswith(f"HR@10 {verdict}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1", "is no list"),
        ("- [", "line 2 is no YAML|line 1 is no YAML"),
        ("- hr@10: [1, 2]", "target 1 of .* has no `match`"),
        ("- match: {dataset: x}\n  hr@10: [1, 2]", "match names 'dataset'; use data"),
        ("- match: {data: x}\n  source: y", "has no goal"),
        ("- match: {data: x}\n  hr@10: 0.7", "hr@10 = 0.7 is no goal; use"),
        ("- match: {data: x}\n  hr@10: [0.7, -1]", "is no goal"),
        (
            "- match: {data: ml-100k}\n  hr@10: [1, 2]\n- match: {model: pfedrec}\n  mrr: [1, 1]",
            "targets 1 and 2 both match",
        ),
    ],
)
def test_malformed_targets_are_one_line(runs, tmp_path, text, message):
    with pytest.raises(ValueError, match=message) as caught:
        results([runs], targets(tmp_path, text), tmp_path / "results.md")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "results.md").exists()


def damaged(folder: Path, file: str, text: str | None) -> Path:
    fake_run(folder)
    (folder / file).unlink()
    if text is not None:
        (folder / file).write_text(text)
    return folder


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("metrics.jsonl", None, "metrics.jsonl does not exist"),
        ("metrics.jsonl", "", "metrics.jsonl is empty"),
        (
            "metrics.jsonl",
            '{"round": 1}\n{"round": 2, "hr@',
            "line 2 is no whole record.*'{\"round",
        ),
        ("metrics.jsonl", '{"round": 1}\n\n{"round": 2}', "line 2 is no whole record"),
        ("metrics.jsonl", "[1]", "line 1 has no integer `round`"),
        ("metrics.jsonl", '{"round": 2}\n{"round": 2}', "line 2 goes back to round 2 from 2"),
        ("metrics.jsonl", '{"round": 2, "loss": "x"}', "line 1: 'loss' is no number"),
        ("metrics.jsonl", '{"round": 1000}', "best round .*, which metrics.jsonl lacks"),
        ("summary.json", None, "is unfinished: no summary.json after round 60; resume"),
        ("summary.json", "{", "summary.json is malformed or half-written"),
        ("summary.json", "{}", "summary.json lacks best, data, evaluation"),
        ("config.yaml", None, "config.yaml does not exist"),
        ("config.yaml", "a: [", "config.yaml is malformed"),
        ("per_user.npz", "no zip", "per_user.npz is malformed"),
    ],
)
def test_damaged_runs_are_one_line(tmp_path, file, text, message):
    with pytest.raises(ValueError, match=message) as caught:
        read_run(damaged(tmp_path / "run", file, text))
    assert "\n" not in str(caught.value)


def test_missing_folders_are_named(tmp_path):
    for read in (read_run, lambda folder: find_runs([folder])):
        with pytest.raises(ValueError, match=r"absent' does not exist; name a finished run"):
            read(tmp_path / "absent")
    with pytest.raises(ValueError, match=r"no summary\.json under"):
        find_runs([tmp_path])


def test_a_failed_write_leaves_the_old_report(runs, tmp_path, monkeypatch):
    write_report([runs / "train"], tmp_path)
    before = (tmp_path / "report.md").read_text()
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        results([runs], None, tmp_path / "report.md")
    assert (tmp_path / "report.md").read_text() == before
    assert not list(tmp_path.rglob("*.tmp"))


def test_rounds_to_target_are_counted_on_validation(tmp_path):
    """A reference, one that is quicker, and one whose every seed stays below."""
    settings = dict(data="ml-100k", evaluation="full catalogue", negatives="train")
    for name, level in (("fedavg", 0.6), ("quick", 0.9), ("low", 0.3)):
        for seed in (0, 1):
            fake_run(tmp_path / f"{name}-{seed}", seed, level, name=name, strategy=name, **settings)
    page, *_ = results([tmp_path], None, tmp_path / "out.md")
    text = page.read_text().split("## Rounds to target: ml-100k, full catalogue")[1]
    rows = {line["strategy"]: line for line in cells(text.split("## Settings")[0])}
    assert next(iter(rows)) == "quick" and rows["low"]["rounds to 95%"] == "0 of 2 seeds"
    found = {n: group(find_runs([tmp_path / f"{n}-0", tmp_path / f"{n}-1"]))[0] for n in rows}
    column = lambda run: run.column("validation_hr@10")
    target = 0.95 * np.mean([column(run).max() for run in found["fedavg"].runs])
    assert f"{target:.4f}" in text
    for name in ("fedavg", "quick"):
        runs = found[name].runs
        first = [run.records[int(np.argmax(column(run) >= target))]["round"] for run in runs]
        assert rows[name]["rounds to 95%"] == f"{np.mean(first):.0f}"
        totals = [run.summary["totals"] for run in runs]
        sent = np.mean([total["bytes_up"] / total["rounds"] for total in totals]) / 2**20
        assert rows[name]["MiB up to 95%"] == f"{np.mean(first) * sent:,.1f}"
        assert rows[name]["MiB down to 95%"] == f"{np.mean(first) * 2 * sent:,.1f}"
        assert rows[name]["MiB down a round"] == f"{2 * sent:,.2f}"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda s: s["best"].update({"hr@10": 0.99}), "best is not what"),
        (lambda s: s.update(best=s["final"]), "best is not what"),
        (lambda s: s["final"].update({"loss": 0.1}), "final is not what"),
        (lambda s: s["totals"].update(bytes_up=1), "totals.bytes_up is not what"),
    ],
)
def test_a_summary_that_was_edited_is_not_believed(tmp_path, change, told):
    file = fake_run(tmp_path / "run") / "summary.json"
    read_run(tmp_path / "run")
    summary = json.loads(file.read_text())
    change(summary)
    file.write_text(json.dumps(summary))
    with pytest.raises(ValueError, match=told) as error:
        read_run(tmp_path / "run")
    assert "\n" not in str(error.value)
    fake_run(tmp_path / "explicit", explicit=True)  # where the least is the best
    assert read_run(tmp_path / "explicit").summary["selected_by"] == "validation_rmse"


def configured(folder: Path, changes: dict, **about) -> Path:
    """A fake run whose config.yaml has `changes` in `data`."""
    fake_run(folder, **about)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["data"] |= changes
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder


def test_rows_of_one_name_say_how_their_data_differ(tmp_path):
    """And have no axis in common; other users or items under the same configuration too."""
    configured(tmp_path / "a", {"core": 0}, name="mine")
    configured(tmp_path / "b", {"core": 5}, name="mine")
    configured(tmp_path / "c", {"core": 0, "clients": "by_hash"}, name="mine")
    swapped = configured(tmp_path / "d", {"core": 0}, name="mine", seed=2)
    summary = json.loads((swapped / "summary.json").read_text())
    summary["data"]["digests"] = {"catalogue of users and items": "0123"}
    (swapped / "summary.json").write_text(json.dumps(summary))
    groups = group(find_runs([tmp_path]))
    rows = [row["run"] for row in cells(markdown(groups))]
    assert sorted(rows) == [
        "mine", "mine (data.catalogue=0123)", "mine (data.clients=by_hash)", "mine (data.core=5)",
    ]  # fmt: skip
    assert sorted((data, len(them)) for (data, _), them in sets_of(groups).items()) == [
        ("ml-100k", 2), ("ml-100k (data.catalogue=0123)", 1), ("ml-100k (data.core=5)", 1),
    ]  # fmt: skip


def test_unfinished_runs_are_named(runs, tmp_path, capsys):
    folder = tmp_path / "begun"
    folder.mkdir()
    (folder / "config.yaml").write_text("seed: 0")
    assert unfinished([runs, tmp_path]) == [folder] and not unfinished([runs])
    fake_run(tmp_path / "done")
    page, *_ = results([runs, tmp_path], None, tmp_path / "results.md")
    assert f"`{folder}` is unfinished and is left out." in page.read_text()
    assert main(["report", str(tmp_path), "--out", str(tmp_path / "report")]) == 0
    assert f"{folder} is unfinished" in capsys.readouterr().err
    assert f"`{folder}` is unfinished" in (tmp_path / "report/report.md").read_text()


def test_sampled_and_full_rankings_are_no_column_of_one_table(tmp_path):
    fake_run(tmp_path / "a")
    fake_run(tmp_path / "b", evaluation="full catalogue")
    found = find_runs([tmp_path])
    console = Console(record=True, width=150)
    console.print(tables(found))
    text = console.export_text()
    assert "ml-100k, sampled-99" in text and "ml-100k, full catalogue" in text
    assert text.count("HR@10") == 2
    console.print(tables(found[:1]))
    assert "sampled-99" not in console.export_text()


def per_user(folder: Path, hits: np.ndarray) -> None:
    """Writes HR@10 of users 5, 6, ... as it is given."""
    users = np.arange(5, 5 + len(hits))
    held = {"values": hits[:, None].astype(np.float32), "metrics": np.array(["hr@10"])}
    np.savez(folder / "per_user.npz", **held, activity=users, users=users)


def test_runs_are_compared_user_by_user(tmp_path):
    rng = np.random.default_rng(0)
    base = rng.integers(0, 2, 60).astype(float)
    better = np.where(rng.random(60) < 0.3, 1.0, base)
    for seed in (1, 2):
        per_user(fake_run(tmp_path / f"base{seed}", seed, name="base", negatives="paper"), base)
    changed = fake_run(tmp_path / "better", name="better", negatives="train")
    per_user(changed, better)
    per_user(fake_run(tmp_path / "same", name="same", strategy="fedavg"), np.r_[base[:-1], np.nan])
    found = compare([tmp_path], against=tmp_path / "base2")
    told = {row["run"].split(",")[0]: row for row in found.iter_rows(named=True)}
    alone = paired(better, base)
    assert told["better"]["difference"] == pytest.approx(better.mean() - base.mean())
    assert told["better"]["p_wilcoxon"] == pytest.approx(2 * alone["p_wilcoxon"])  # Holm, of two
    assert (told["better"]["better"], told["same"]["better"]) == (True, None)
    assert (told["better"]["seeds"], told["same"]["users"]) == ("1 / 2", 59)
    assert text_of(found, "csv").splitlines()[0].startswith("run,against,metric,seeds,first,second")
    latex = text_of(found, "latex")
    assert latex.count(r"\\") == 3 and "d\\_z" in latex
    assert re.search(r"\| better.*\| HR@10 \| 1 / 2 \| 0\.\d{4}", text_of(found))


def test_a_comparison_says_what_it_cannot_compare(runs, tmp_path, capsys):
    with pytest.raises(ValueError, match=r"1 row was found .* give runs of two"):
        compare([runs / "paper"])
    fake_run(tmp_path / "ml1m", data="ml-1m")
    with pytest.raises(ValueError, match="users have no pairs"):
        compare([runs / "paper", tmp_path])
    with pytest.raises(ValueError, match=r"did not measure it \(did you mean 'hr@10'"):
        compare([runs], ["hr@1"])
    with pytest.raises(ValueError, match="is none of the runs"):
        compare([runs], against=tmp_path / "ml1m")
    (tmp_path / "ml1m/per_user.npz").unlink()
    fake_run(tmp_path / "other", data="ml-1m", strategy="fedavg")
    assert main(["compare", str(tmp_path)]) == 2
    assert "has no per_user.npz" in capsys.readouterr().err


def test_the_command_compares(runs, capsys):
    assert main(["compare", str(runs), "--metrics", "hr@10", "ndcg@10", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["metric"] for row in rows] == ["hr@10", "ndcg@10"]
    assert main(["compare", str(runs), "--format", "markdown"]) == 0
    assert "| p (bootstrap) |" in capsys.readouterr().out


def test_bytes_of_a_client_are_those_of_all_visits_where_cohorts_vary(tmp_path):
    """Four clients send 100 bytes each, one sends 1,000, and nobody comes: 1,400 over 5 visits."""
    folder = fake_run(tmp_path / "varied")
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    visits = [(0, 0), (4, 100), (1, 1000), *[(0, 0)] * (len(records) - 3)]
    for record, (clients, each) in zip(records, visits, strict=True):
        record |= {"clients": clients, "bytes_up": clients * each, "bytes_up_per_client": each}
    (folder / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    summary = json.loads((folder / "summary.json").read_text())
    summary["totals"]["bytes_up"] = 1400
    summary["final"] = records[-1]
    summary["best"] = next(r for r in records if r["round"] == summary["best"]["round"])
    (folder / "summary.json").write_text(json.dumps(summary))
    assert read_run(folder).bytes_per_client() == 280.0
