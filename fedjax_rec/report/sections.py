"""A page of sections, each written by a command of its own, so that one set of runs can be made
anew without the others.

A section stands between two comments that name it; what is outside of them is the reader's.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def with_section(page: Path, title: str, lines: Sequence[str]) -> str:
    """The text of `page` (a new one, if there is none) in which the section `title` is `lines`:
    replaced where it stands, or put at the end.

    Raises ValueError where the page holds the section's first comment and not its last.
    """
    first, last = f"<!-- section: {title} -->", f"<!-- end of section: {title} -->"
    body = "\n".join([first, f"## {title}", "", *lines]).rstrip() + f"\n\n{last}\n"
    text = page.read_text(encoding="utf-8") if page.is_file() else "# Results\n"
    if first not in text:
        return f"{text.rstrip()}\n\n{body}"
    before, _, rest = text.partition(first)
    inside, found, after = rest.partition(last)
    if not found or "<!-- section: " in inside:
        raise ValueError(f"{page} lacks {last!r}; put it back where the section ends.")
    below = after.lstrip("\n")
    return before + body + (f"\n{below}" if below else "")


def slug(title: str) -> str:
    """The title of a section as files are called after it: `update_strategies`."""
    return title.replace(" ", "_").lower()
