"""A figure as SVG to stand inside a page: texts stay texts, in the fonts of the reader's machine.

What refers to elsewhere (prolog, namespaces, metadata), what would style the rest of the page, and
ids that another figure of the page may have are left out; coordinates are kept to 0.01 points.
"""

import io
import re

import matplotlib
from matplotlib.figure import Figure

NO_METADATA = dict.fromkeys(("Date", "Creator", "Format", "Type"))
BY_NUMBER = re.compile(r"\\u([0-9a-f]{4,5})")


def svg(figure: Figure, called: str) -> str:
    """The element `<svg>` of a figure.

    called: what it shows, for who cannot see it; no other figure of the page has it.
    """
    held = io.StringIO()
    # Ids of what is referred to are drawn from the salt: equal figures are equal texts.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": called}):
        figure.savefig(held, format="svg", transparent=True, metadata=NO_METADATA)
    text = held.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(
        r"<style[^>]*>.*?</style>|<metadata>.*?</metadata>|<!--.*?-->", "", text, flags=re.S
    )
    text = re.sub(r' xmlns(:\w+)?="[^"]*"', "", text, count=2)
    named = set(re.findall(r'(?:url\(|href=")#([^)"]+)', text))
    text = re.sub(r' id="([^"]*)"', lambda m: m[0] if m[1] in named else "", text)
    text = re.sub(r' d="[^"]*"', lambda m: re.sub(r"(\.\d\d)\d+", r"\1", m[0]), text)
    # Signs that no font of this machine has were written by number; the reader's may have them.
    text = re.sub(r">[^<>]+</text>", lambda m: _signs(m[0]), text)
    width = re.search(r'width="([\d.]+)pt"', text)
    assert width, "matplotlib says how wide its figures are"
    text = re.sub(r' (?:width|height)="[\d.]+pt"', "", text, count=2)
    return text.replace(
        "<svg", f'<svg role="img" aria-label="{called}" style="--width:{float(width[1]):.0f}px"', 1
    )


def _signs(text: str) -> str:
    # From U+0080 on: what is ASCII is never written so.
    sign = lambda m: chr(int(m[1], 16)) if int(m[1], 16) >= 0x80 else m[0]
    return BY_NUMBER.sub(sign, text)
