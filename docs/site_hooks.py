"""Hooks of the docs site: pages may link to the notebooks and the code beside the folder `docs`.

On a forge the links of a page lead to files of the repository; on the site to the pages of these.
"""

import re
from pathlib import Path

from mkdocs.plugins import event_priority
from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[1]
PLACES = {
    "](../notebooks/": "](notebooks/",
    "](../fedjax_rec/types.py)": "](api/types.md)",
}


@event_priority(100)  # before mkdocs-jupyter looks for notebooks
def on_files(files, config):
    """Adds the notebooks, which lie beside `docs`."""
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        name = f"notebooks/{path.name}"
        files.append(File(name, str(ROOT), config["site_dir"], config["use_directory_urls"]))
    return files


def on_page_markdown(markdown, page, config, files):
    """Links out of `docs` become links to pages."""
    for old, new in PLACES.items():
        markdown = markdown.replace(old, new)
    return markdown


def on_page_content(html, page, config, files):
    """Links of notebooks, which mkdocs does not look into: to pages, to each other, to files."""
    if not page.file.src_uri.startswith("notebooks/"):
        return html
    html = re.sub(r'href="\.\./docs/(\w+)\.md', r'href="../../\1/', html)
    html = re.sub(r'href="(\w+)\.ipynb', r'href="../\1/', html)
    return re.sub(r'<a href="\.\./configs[^>]*>(.*?)</a>', r"\1", html)
