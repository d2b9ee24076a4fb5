"""Texts of figures in a font that has their signs: names of runs may be Chinese, and the font that
matplotlib brings has none of those."""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator

from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.text import Text

# Tried first, since opening all fonts of a machine may take seconds.
FIRST = (
    "Noto Sans CJK SC", "Noto Sans SC", "Source Han Sans SC", "Source Han Sans CN",
    "WenQuanYi Micro Hei", "WenQuanYi Zen Hei", "PingFang SC", "Hiragino Sans GB",
    "Microsoft YaHei", "SimHei", "Droid Sans Fallback", "Arial Unicode MS",
)  # fmt: skip


def make_legible(figure: Figure) -> None:
    """Gives texts whose signs the font lacks one that has them, beside it; where none is installed,
    writes these signs by their numbers, and says so in one line on standard error."""
    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        lacking = _lacking(text.get_text(), font_manager.findfont(text.get_fontproperties()))
        if lacking and (family := font_for(lacking)) is not None:
            text.set_fontfamily([*text.get_fontfamily(), family])
        elif lacking:
            text.set_text(_by_number(text.get_text(), lacking))


def legible(text: str) -> str:
    """`text` as figures will write it, by which there is room for it."""
    lacking = _lacking(text, font_manager.findfont(font_manager.FontProperties()))
    return text if not lacking or font_for(lacking) is not None else _by_number(text, lacking)


def _by_number(text: str, lacking: str) -> str:
    _warn(lacking)
    return "".join(rf"\u{ord(c):04x}" if c in lacking else c for c in text)


@functools.cache
def font_for(signs: str) -> str | None:
    """The family of an installed font that has all of `signs`; None for none."""
    for font in _installed():
        try:
            if not _lacking(signs, font.fname):
                return font.name
        except (OSError, RuntimeError):  # a file that is no font
            continue
    return None


def _installed() -> Iterator[font_manager.FontEntry]:
    # The font of last resort has a box for every sign.
    fonts = [x for x in font_manager.fontManager.ttflist if not x.name.startswith("Last Resort")]
    rank = {name: place for place, name in enumerate(FIRST)}
    yield from sorted(fonts, key=lambda font: rank.get(font.name, len(rank)))


def _lacking(text: str, file: str) -> str:
    """The signs of `text` that the font in `file` lacks, each once."""
    if text.isascii():
        return ""
    known = font_manager.get_font(file).get_charmap()
    return "".join(dict.fromkeys(c for c in text if ord(c) not in known and not c.isspace()))


@functools.cache
def _warn(signs: str) -> None:
    print(
        f"fedjax-rec: no installed font has {signs}, which figures write by number; install one, "
        "such as Noto Sans CJK.",
        file=sys.stderr,
    )
