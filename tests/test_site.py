"""The two README say the same, the docs site has every page, and examples of `fr.run` are read."""

import ast
import re
from pathlib import Path

import pytest
import yaml

import fedjax_rec as fr
from fedjax_rec.experiment import config
from fedjax_rec.experiment.loaded import LoadedRun

ROOT = Path(__file__).resolve().parents[1]
ENGLISH, CHINESE = ROOT / "README.md", ROOT / "README.zh-CN.md"
PAGES = [ENGLISH, CHINESE, *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path) -> list[tuple[str, str]]:
    """(language, text) of each fenced block."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


def without_comments(text: str) -> list[str]:
    lines = [re.sub(r"\s*#.*", "", line) for line in text.splitlines()]
    return [line for line in lines if line]


def shape(page: Path) -> dict[str, list]:
    """What does not depend on the language: headings by depth, pictures, links, rows of tables."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    return {
        "headings": re.findall(r"^(#+) ", text, re.MULTILINE),
        "pictures": re.findall(r"!\[[^\]]*\]\(([^)]*)\)", text),
        "links": sorted(set(re.findall(r"\]\(([^)]*)\)", text)) - {ENGLISH.name, CHINESE.name}),
        "columns": [line.count("|") for line in text.splitlines() if line.startswith("|")],
    }


def test_the_chinese_readme_has_the_same_parts():
    assert shape(CHINESE) == shape(ENGLISH)
    english, chinese = blocks(ENGLISH), blocks(CHINESE)
    assert [language for language, _ in english] == [language for language, _ in chinese]
    for (_, here), (_, there) in zip(english, chinese, strict=True):
        assert without_comments(here) == without_comments(there)


def test_links_of_the_chinese_readme_lead_somewhere():
    for target in re.findall(r"\]\((?!https?://)([^)#\s]+)", CHINESE.read_text()):
        assert (ROOT / target).exists(), target


def test_the_readme_names_the_rooms():
    named = set(re.findall(r"^\| `(\w+)` \|", ENGLISH.read_text(), re.MULTILINE))
    inner = {"bench", "rows", "types", "weights", "wire"}  # of the parts, not of their users
    assert set(fr.ROOMS) - inner <= named


def pages_of(nav) -> list[str]:
    if isinstance(nav, str):
        return [nav]
    inside = nav.values() if isinstance(nav, dict) else nav
    return [page for one in inside for page in pages_of(one)]


def test_the_site_has_every_page_and_an_api_page_of_every_room():
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    listed = set(pages_of(site["nav"]))
    docs = {str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")}
    books = {str(page.relative_to(ROOT)) for page in (ROOT / "notebooks").glob("*.ipynb")}
    assert listed == docs | books
    rooms = {f"api/{room}.md" for room in fr.ROOMS} - {"api/bench.md"}
    assert rooms <= listed


def calls(page: Path) -> list[ast.Call]:
    """The calls of `fr.run` in the page's examples."""
    trees = [ast.parse(text) for language, text in blocks(page) if language == "py"]
    found = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return [node for node in found if ast.unparse(node.func) == "fr.run"]


@pytest.mark.parametrize("page", [page for page in PAGES if calls(page)], ids=lambda p: p.name)
def test_runs_from_python_are_read(page):
    for call in calls(page):
        source = ast.literal_eval(call.args[0])
        changes = {word.arg: ast.literal_eval(word.value) for word in call.keywords}
        changes.pop("out", None)
        assert config.read(ROOT / source, changes).rounds == changes["rounds"]
    for language, text in blocks(page):
        if language == "py":
            for name in re.findall(r"\bdone\.(\w+)", text):
                assert hasattr(LoadedRun, name), f"{page.name}: a run has no {name}"
