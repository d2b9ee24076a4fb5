"""What an error says, in one line, for the end of a command and for a run of a sweep."""

from __future__ import annotations

# What this package raises to say what is wrong and what helps.
FORESEEN = (ValueError, TypeError, OSError, MemoryError)


def of_a_sweep(line: str) -> str:
    """What a run says, as a sweep says it, which has no `--overwrite`: one of its folders goes."""
    return line.replace("--overwrite true", "remove that one")


def line_of(error: BaseException, where: str, foreseen: tuple[type, ...] = FORESEEN) -> str:
    """`error` in one line. where: what shows its place, told of errors that are not `foreseen`."""
    line = " ".join(str(error).split()) or type(error).__name__
    if "No space left on device" in line:
        place = getattr(error, "filename", None) or "the disk"
        return f"{place}: no space left; free some and run again to go on."
    return line if isinstance(error, foreseen) else f"{type(error).__name__}: {line} ({where})"
