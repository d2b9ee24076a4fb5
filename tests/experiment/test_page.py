"""The page of `fedjax-rec report --html`: what it says is what the other tables say, it refers to
nothing outside of it, and no name of a run gets out of its place."""

import json
import re
import shlex
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import yaml
from small_data import timeless, write_config, write_folder
from test_report import fake_run

from fedjax_rec.experiment.main import main
from fedjax_rec.report.page import command, page, write_page
from fedjax_rec.report.reading import find_runs, group, read_run
from fedjax_rec.report.tables import columns_and_rows

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
VOID = {"meta", "link", "input", "br", "img"}
EVIL, CHINESE = "<script>alert('x')</script>--><b>&amp;", "联邦平均"


class Page(HTMLParser):
    """Tables as lists of rows of texts, texts by element, attributes; the nesting is checked."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.texts: list[tuple[str, str]] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.attributes += [(tag, key, value or "") for key, value in attrs]
        if tag == "table":
            self.rows = self.tables.setdefault(dict(attrs)["id"], [])
        elif tag == "tr":
            self.rows.append([])
        elif tag in ("th", "td"):
            self.rows[-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.attributes += [(tag, key, value or "") for key, value in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append((self.open[-1] if self.open else "", data))
        if "td" in self.open or "th" in self.open:
            self.rows[-1][-1] += data


def spread_over_users(folder: Path, shift: float = 0.0) -> None:
    file = folder / "summary.json"
    summary = json.loads(file.read_text())
    levels = {"p10": 0.0, "p25": 0.1, "p50": 0.25, "p75": 0.5, "p90": 0.75, "worst_decile": None}
    told = {"mean": 0.3 + shift, "low": 0.2, "high": 0.4, "users": 400.0, **levels}
    file.write_text(json.dumps(summary | {"distribution": {"ndcg@10": told}}))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Three groups on one data set, one of three seeds, names of all kinds; one on another."""
    root = tmp_path_factory.mktemp("runs")
    for seed in (1, 2, 3):
        spread_over_users(fake_run(root / f"a{seed}", seed, name=EVIL), 0.1 * seed)
    fake_run(root / "b's run", 1, 0.55, negatives="train", cohort=40, name=CHINESE)
    fake_run(root / "c", 1, 0.6, name="fedmf", model="mf", strategy="fedmf", cohort=200)
    fake_run(root / "d", 1, name="other", data="ml-1m", explicit=True)
    return root


@pytest.fixture(scope="module")
def text(folder) -> str:
    return page([folder])


@pytest.fixture(scope="module")
def parsed(text) -> Page:
    return Page(text)


def test_rows_and_numbers_are_those_of_the_other_tables(folder, parsed):
    mine = [each for each in group(find_runs([folder])) if each.field("data") == "ml-100k"]
    columns, rows = columns_and_rows(mine)
    header, *shown = parsed.tables["runs1"]
    assert len(shown) == 3 and set(header) < set(columns)  # what all rows share is told above
    assert shown == [[row[columns.index(name)] for name in header] for row in rows]
    assert any("data ml-100k, evaluation sampled-99, rounds 60" in said for _, said in parsed.texts)
    best = [json.loads((folder / f"a{n}/summary.json").read_text())["best"] for n in (1, 2, 3)]
    hits = [each["hr@10"] for each in best]
    wanted = f"{np.mean(hits):.4f} ± {np.std(hits, ddof=1):.4f}"
    [evil] = [row for row in shown if row[0] == EVIL]
    assert evil[header.index("HR@10")] == wanted
    [_, other] = parsed.tables["runs2"]
    assert other[0] == "other"


def test_users_are_means_over_the_seeds(parsed):
    header, row = parsed.tables["users1"]
    told = dict(zip(header, row, strict=True))
    assert told["metric"] == "NDCG@10" and told["mean"] == "0.5000" and told["p75"] == "0.5000"
    assert told["worst tenth"] == "n/a" and told["users"] == "400"
    assert "users2" not in parsed.tables


def test_lines_of_reference_stand_above_and_shares_beside(tmp_path):
    fake_run(tmp_path / "row", 1, 0.6, name="row")
    for name, level in (("low", 0.3), ("high", 0.8)):
        made = fake_run(tmp_path / name, 1, level, strategy="central", model="items", name=name)
        config = yaml.safe_load((made / "config.yaml").read_text())
        config["strategy"]["init_args"] = {"fit": {"class_path": f"fedjax_rec.models.{name}"}}
        (made / "config.yaml").write_text(yaml.safe_dump(config))
    header, *rows = Page(page([tmp_path])).tables["runs1"]
    assert [row[0] for row in rows] == ["low", "high", "row"]
    value = [float(row[header.index("HR@10")]) for row in rows]
    shares = [row[header.index("share")] for row in rows]
    assert shares[1] == "best central fit"
    assert shares[2] == f"{value[2] / value[1]:.0%} of high"


def test_references_of_no_row_are_rows(tmp_path):
    fake_run(tmp_path / "row", 1, name="row")
    fake_run(tmp_path / "far", 1, name="far", data="ml-1m", strategy="central")
    tables = Page(page([tmp_path])).tables
    shown = [rows for name, rows in tables.items() if name.startswith("runs")]
    assert [[row[0] for row in rows[1:]] for rows in shown] == [["row"], ["far"]]


def test_names_are_escaped_and_chinese_stays(text, parsed):
    assert "alert('x')</script>" not in text and "<b>" not in text
    assert text.count("<script>") == 1
    summaries = [said for tag, said in parsed.texts if tag == "summary"]
    assert EVIL in summaries and any(CHINESE in said for said in summaries)
    drawn = [said for tag, said in parsed.texts if tag == "text"]
    assert any(EVIL in said for said in drawn) and any(CHINESE in said for said in drawn)


def test_nothing_refers_to_elsewhere(text, parsed):
    assert re.findall(r"https?:|@import|\bsrc=", text) == []
    links = [value for _, key, value in parsed.attributes if key in ("href", "xlink:href")]
    ids = [value for _, key, value in parsed.attributes if key == "id"]
    assert len(ids) == len(set(ids)) and links
    assert {link[1:] for link in links if link.startswith("#")} <= set(ids)
    assert [link for link in links if not link.startswith("#")] == ["data:,"]
    assert set(re.findall(r"url\(#([^)]+)\)", text)) <= set(ids)
    assert any("default-src 'none'" in value for _, _, value in parsed.attributes)


def test_curves_have_bands_and_a_page_is_drawn_alike_twice(folder, text):
    figures = re.findall(r"<figure>.*?</figure>", text, flags=re.S)
    assert len(figures) == 4  # learning curves and bytes, on each data set
    assert [("lowest to highest seed" in each) for each in figures] == [1, 1, 0, 0]
    assert page([folder]) == text


def test_settings_tell_what_differs_and_hold_the_whole(folder, parsed):
    told = "".join(said for tag, said in parsed.texts if tag == "pre")
    assert "data.negatives = train" in told
    config = yaml.safe_load((folder / "c/config.yaml").read_text())
    held = [said for tag, said in parsed.texts if tag == "pre" and said.startswith("cohort:")]
    assert config in [yaml.safe_load(one) for one in held]


def test_commands_are_words_of_a_shell(folder, parsed):
    commands = [
        shlex.split(said) for tag, said in parsed.texts if said.startswith("fedjax-rec run")
    ]
    assert len(commands) == 6
    wanted = ["fedjax-rec", "run", f"{folder}/b's run/config.yaml", "--out"]
    assert [*wanted, f"{folder}/b's run-again"] in commands


@pytest.mark.slow
def test_a_command_plays_the_run_again(tmp_path):
    config = write_config(tmp_path / "c.yaml", write_folder(tmp_path / "small"))
    assert main(["run", str(config), "--rounds", "3", "--out", str(tmp_path / "r"), "--quiet"]) == 0
    words = shlex.split(command(read_run(tmp_path / "r")))
    assert main([*words[1:], "--quiet"]) == 0
    assert timeless(tmp_path / "r-again") == timeless(tmp_path / "r")


def test_the_command_writes_the_page_beside_the_report(folder, tmp_path, capsys):
    file = tmp_path / "new/page.html"
    words = ["report", str(folder / "c"), str(folder / "d"), "--out", str(tmp_path / "out")]
    assert main([*words, "--html", str(file), "--json"]) == 0
    files = json.loads(capsys.readouterr().out)["files"]
    assert str(file) in files and (tmp_path / "out/report.md").is_file()
    assert file.read_text(encoding="utf-8") == page([folder / "c", folder / "d"]) + "\n"
    assert [path.name for path in file.parent.iterdir()] == ["page.html"]


def test_rows_stand_by_a_metric(folder):
    _, *rows = Page(page([folder], sort="ndcg@10")).tables["runs1"]
    assert [row[0] for row in rows] == [EVIL, "fedmf", CHINESE]


@pytest.mark.parametrize(
    ("at", "runs", "said"),
    [
        ("there", "c", "is a folder; name a file"),
        ("file/page.html", "c", "is a file; name a folder"),
        ("page.html", "empty", "no summary.json under"),
        ("page.html", "absent", "does not exist; name a finished run"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(folder, tmp_path, capsys, at, runs, said):
    for name in ("there", "empty"):
        (tmp_path / name).mkdir()
    (tmp_path / "file").write_text("kept")
    given = folder / runs if runs == "c" else tmp_path / runs
    before = sorted(tmp_path.rglob("*"))
    words = ["report", str(given), "--out", str(tmp_path / "out"), "--html", str(tmp_path / at)]
    assert main(words) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_a_page_of_200_runs_is_below_5_mb(tmp_path):
    for n in range(200):
        name = f"pfedrec,rate={n // 2}"
        made = fake_run(tmp_path / f"r{n}", n % 2, 0.4 + n / 600, cohort=100 + n // 2, name=name)
        spread_over_users(made)
    text = page([tmp_path])
    assert len(Page(text).tables["runs1"]) == 101
    assert len(text.encode()) < 5e6


TRIAL = """<script>addEventListener("load", () => {
  const names = () => [...document.querySelectorAll("#runs1 tbody tr")]
    .filter((row) => !row.hidden).map((row) => row.cells[0].textContent);
  const title = [...document.querySelectorAll("#runs1 th button")]
    .find((each) => each.textContent === "HR@10");
  const told = {};
  title.click(); told.down = names();
  title.click(); told.up = names();
  const filter = document.querySelector("input[data-for=runs1]");
  filter.value = "FedMF"; filter.dispatchEvent(new Event("input")); told.filtered = names();
  const root = document.documentElement;
  told.wide = root.scrollWidth - root.clientWidth;
  told.errors = errors;
  document.title = JSON.stringify(told);
});</script>"""
HEARD = (
    '<script>const errors = []; addEventListener("error", (e) => errors.push(e.message));</script>'
)


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium to click in the page")
def test_tables_sort_and_filter_in_a_browser(folder, tmp_path):
    file = write_page([folder], tmp_path / "page.html")
    text = file.read_text(encoding="utf-8").replace("<style>", HEARD + "<style>", 1)
    file.write_text(text.replace("</body>", TRIAL + "</body>"), encoding="utf-8")
    words = [str(CHROMIUM), "--headless=new", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    words += ["--enable-logging=stderr", f"--user-data-dir={tmp_path / 'profile'}"]
    words += ["--window-size=390,800", f"file://{file}"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True)
    assert "CONSOLE" not in done.stderr
    [told] = [said for tag, said in Page(done.stdout).texts if tag == "title"]
    told = json.loads(told)
    assert told["down"] == [EVIL, "fedmf", CHINESE] and told["up"] == told["down"][::-1]
    assert told["filtered"] == ["fedmf"]
    assert told["errors"] == [] and told["wide"] <= 0
