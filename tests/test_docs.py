"""The pages say what is true: their Python runs, their YAML and commands are read, their links lead
somewhere."""

import json
import re
import shlex
import sys
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from compiling import fast

from fedjax_rec.data.sources.sources import find
from fedjax_rec.experiment import config, explain, runs
from fedjax_rec.experiment.main import main
from fedjax_rec.experiment.overrides import pairs
from fedjax_rec.experiment.search import search_of
from fedjax_rec.experiment.sweep import trials

ROOT = Path(__file__).resolve().parents[1]
DOCS = sorted(f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md"))
WITH_RUNS = ("README.md", "docs/configuration.md", "docs/item_texts.md")
PAGES = ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", *DOCS]
EXECUTED = ["docs/communication.md", "docs/language_models.md", "docs/strategies.md"]
# Pages that `fedjax-rec report` and `bench` write from finished runs.
PAGES_OF_BENCH = tuple(
    f"benchmarks{of}" for of in ("", "_more", "_scale", "_rows", "_threads", "_peers", "_sharing")
)
WRITTEN_BY_COMMANDS = {ROOT / "docs" / f"{name}.md" for name in ("results", *PAGES_OF_BENCH)}


def blocks(page: str, language: str) -> list[tuple[int, str]]:
    """(line, text) of each fenced block in `language`."""
    text = (ROOT / page).read_text(encoding="utf-8")
    found = re.finditer(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [(text[: match.start(1)].count("\n"), match[1]) for match in found]


def execute(page: str, module: ModuleType, replace: dict[str, str] | None = None) -> None:
    """Runs all Python blocks of `page` in `module`; tracebacks name the lines of the page."""
    found = blocks(page, "python")
    for old in replace or {}:
        assert any(old in text for _, text in found), f"{page} has no {old!r} any more"
    for line, text in found:
        for old, new in (replace or {}).items():
            text = text.replace(old, new)
        exec(compile("\n" * line + text, str(ROOT / page), "exec"), vars(module))


def commands(page: str) -> list[list[str]]:
    """The words of each `fedjax-rec` command of the page's shell blocks."""
    lines = "".join(text for _, text in blocks(page, "bash")).replace("\\\n", " ").splitlines()
    words = [shlex.split(line, comments=True) for line in lines]
    return [w[w.index("fedjax-rec") :] for w in words if "fedjax-rec" in w]


# These are executed by tests of their own, which use what they make.
OWN = ("docs/extending.md", "docs/own_data.md")
EXECUTED = [page for page in DOCS if blocks(page, "python") and page not in OWN]


@pytest.fixture
def mylab(monkeypatch):
    """An empty module `mylab`; what runs in it is compiled fast rather than well."""
    module = ModuleType("mylab")
    monkeypatch.setitem(sys.modules, "mylab", module)
    with fast():
        yield module


@pytest.fixture
def read(tmp_path):
    """Reads the text of a configuration."""

    def read(text: str, overrides=()):
        path = tmp_path / "page.yaml"
        path.write_text(text)
        return config.read(path, overrides)

    return read


def test_readme_example_runs(mylab, capsys, monkeypatch):
    monkeypatch.setenv("NPROC", "1")  # `configure` sets it for the process
    replace = {"rounds=100": "rounds=5", "simulate.configure()": "simulate.configure(cache=None)"}
    if find("ml-100k") is None:
        replace['data.load("ml-100k")'] = 'data.load("synthetic")'
    execute("README.md", mylab, replace)
    round, loss, quality = re.fullmatch(
        r" +(\d+)  loss (\S+)  HR@10 (\S+)\n", capsys.readouterr().out
    ).groups()
    assert int(round) == 5 and 0 < float(loss) < 0.7 and 0 <= float(quality) <= 1


# Ten seconds each, of parts that other tests train.
LONG = {"docs/language_models.md", "docs/large_tables.md"}


@pytest.mark.parametrize(
    "page", [pytest.param(x, marks=[pytest.mark.slow] if x in LONG else []) for x in EXECUTED]
)
def test_examples_run(mylab, capsys, page):
    execute(page, mylab)


def test_a_csv_becomes_recommendations(mylab, tmp_path, monkeypatch, capsys):
    """The page's Python and its commands, on a file that begins as the page says."""
    (_, head), (_, complaint) = blocks("docs/own_data.md", "text")
    rows = [
        f"{user},m{(user_number * 5 + k) % 14:03d},{1 + k % 5},2010-03-0{1 + k} 00:00:00"
        for user_number, user in enumerate(["ann", "bob", *(f"u{i}" for i in range(10))])
        for k in range(6)
    ]
    (tmp_path / "ratings.csv").write_text(head + "\n".join(rows) + "\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NPROC", "1")
    execute("docs/own_data.md", mylab)
    assert len(mylab.found) == 12 * 6 + 3 and mylab.found.ratings is not None
    assert set(mylab.best["item"]) <= set(mylab.found.item_names.tolist())
    capsys.readouterr()
    for _, *words in commands("docs/own_data.md"):
        assert main([*words, *(["--quiet"] if words[0] == "run" else [])]) == 0
    told = capsys.readouterr()
    assert "user=userId, item=movieId, rating=stars, time=date" in told.err
    assert "m006" in told.out and (tmp_path / "runs" / "own" / "scores").is_dir()
    with (tmp_path / "ratings.csv").open("w") as file:
        file.write("\n".join([*head.splitlines()[:2], "ann,m1,good,2010-01-02 00:00:00"]))
    assert main(["data", "check", "ratings.csv", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["first_bad"] == complaint.strip()


def test_own_data_in_a_configuration_is_read(read, tmp_path, monkeypatch):
    (_, text), (_, featured) = blocks("docs/own_data.md", "yaml")
    (tmp_path / "ratings.csv").write_text("userId,movieId,stars,date\na,b,1,2010-01-02\n")
    (tmp_path / "people.csv").write_text("userId,age,gender,occupation\na,31,F,clerk\n")
    (tmp_path / "films.csv").write_text("movieId,genre,release_year\nb,War|Drama,1995\n")
    monkeypatch.chdir(tmp_path)
    assert len(read(text).data.source) == 1
    made = read(featured).data
    assert made.source.item_features["genre"].to_list() == ["War|Drama"]
    assert "tokens()" in repr(made.features)


@pytest.mark.slow  # half a minute
def test_own_parts_train_and_are_named_in_a_configuration(mylab, read):
    execute("docs/extending.md", mylab)
    (_, of_strategy), (_, text) = blocks("docs/extending.md", "yaml")
    strategy = read(of_strategy).plain["strategy"]
    assert strategy["class_path"] == "mylab.clipped_averaging"
    assert strategy["init_args"]["bound"] == 5.0
    ((_, _, _, *overrides),) = commands("docs/extending.md")
    made = read(text, overrides[: overrides.index("--out")])
    assert made.make_model(num_items=5, members=1)
    strategy = made.plain["strategy"]["init_args"]
    assert strategy["aggregator"]["class_path"] == "mylab.clipped_mean"
    assert strategy["aggregator"]["init_args"] == {"bound": 2.0}
    assert strategy["uplink"]["class_path"] == "mylab.eight_bits"


def test_the_listed_defaults_are_those_of_the_code(read):
    text = blocks("docs/configuration.md", "yaml")[0][1]
    assert {**yaml.safe_load(text)} == config.read(None).plain
    assert text == explain.FILE.read_text()  # which `fedjax-rec explain` reads
    assert read(text).plain == config.read(None).plain


CONFIGURATION = blocks("docs/configuration.md", "yaml")[1:]
OF_RUNS = [(line, text) for line, text in CONFIGURATION if "\nruns:\n" in text]


@pytest.mark.parametrize(
    "line, text",
    [block for block in CONFIGURATION if block not in OF_RUNS]
    + blocks("docs/item_texts.md", "yaml")
    + blocks("docs/adapters.md", "yaml")
    + blocks("docs/from_recbole.md", "yaml"),
)
def test_configurations_are_read(read, line, text):
    assert read(text).examples


def test_the_file_of_runs_is_read(tmp_path, monkeypatch):
    ((_, text),) = OF_RUNS
    (path := tmp_path / "runs.yaml").write_text(text)
    monkeypatch.chdir(ROOT)
    assert "colr,rank=2,epochs=1" in {run.name for run in runs.read_runs(path).runs}


@pytest.mark.parametrize(
    "words",
    [w for page in WITH_RUNS for w in commands(page) if w[1] == "run" and "--help" not in w],
    ids=" ".join,
)
def test_commands_are_read(words):
    overrides = words[3:]
    if "--out" in overrides:
        at = overrides.index("--out")
        del overrides[at : at + 2]
    assert config.read(ROOT / words[2], overrides).rounds


def test_the_sweeps_are_read():
    first, second = [w for w in commands("docs/sweeps.md") if w[1] == "sweep"]
    halved, _ = search_of(yaml.safe_load((ROOT / second[2]).read_text())["search"])
    assert [b.rungs for b in halved.brackets(108, 1)] == [(12, 36, 108)]
    _, _, path, *words = first
    given = dict(pairs(words))
    axes = {k.removeprefix("sweep."): v for k, v in given.items() if k.startswith("sweep.")}
    others = [f"--{k}={v}" for k, v in given.items() if k not in ("out",) and "sweep." not in k]
    assert len(trials(ROOT / path, axes, given["out"], others)) == 4 * 2 * 4


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?://)([^)#\s]+)", text):
        path = ((ROOT / page).parent / target).resolve()
        assert path.exists() or path in WRITTEN_BY_COMMANDS, f"{page} links to {target}"


def test_pictures_are_small():
    for picture in (ROOT / "docs" / "images").iterdir():
        assert picture.stat().st_size < 150_000, f"{picture.name} is too large for the repository"
