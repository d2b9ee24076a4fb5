"""What jsonargparse finds wrong, in one line that names the key, the value and the remedy."""

from __future__ import annotations

import re

from ..check import nearest
from .factories import ConfigError, find, parameters

_UNION = r"Does not validate against any of the Union subtypes Subtypes: \[.*?\] Errors: - "
_NAMED = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "text"}


def one_line(message: str, keys: list[str]) -> str:
    """`message` of jsonargparse, for a parser of `keys`."""
    message = " ".join(re.sub(r"<class '([^']*)'>", r"\1", message).split())
    within = ".init_args.".join(re.findall(r'Parser key "([\w.]+)"', message))
    unknown = re.search(r"[Oo]ption '([\w.]+)' (?:in \S+ )?is not accepted", message)
    group = re.search(r"Group '([\w.]+)' does not accept option '([\w.]+)'", message)
    found = unknown or group
    if found:
        key = ".".join(found.groups())
        makers = re.findall(r"given class_path '([\w.]+)'", message[: found.start()])
        if makers:
            near = nearest(key, _parameters(makers[-1]))
            key = f"{within}.init_args.{key}"
        else:
            near = nearest(key, keys) or nearest(
                key.rsplit(".", 1)[-1], [k.rsplit(".", 1)[-1] for k in keys]
            )
        return f"{key} is no key of the configuration{near}; see docs/configuration.md."
    if missing := re.search(r"arguments are required: ([\w., ]+?)(?: - |$)", message):
        return f"{within or 'the configuration'} lacks {missing[1]}; give a value."
    if wrong := re.search(
        r"Expected an? (.*?)\. Got value: (.*?)(?: - Expected a NoneType|$)", message
    ):
        return f"{within}={wrong[2]} is of the wrong type; {_remedy(wrong[1])}."
    if absent := re.search(r"module '([\w.]+)' has no attribute '(\w+)'", message):
        near = nearest(absent[2], dir(__import__(absent[1], fromlist=["_"])))
        return f"{within}: {absent[1]} has no factory {absent[2]!r}{near}; name one of it."
    if other := re.search(r"path (\S+) does not correspond to a subclass of ([\w.]+)", message):
        return f"{within}: {other[1]} is no factory of one; annotate it `-> {other[2]}`."
    message = re.sub(_UNION, "", message).replace(" - Expected a NoneType", "")
    message = re.sub(r"Given value type: \S+ ", "", message)
    return message if len(message) < 300 else message[:300] + " ..."


def _parameters(maker: str) -> list[str]:
    try:
        return parameters(find(maker, ""))
    except ConfigError:
        return []


def _remedy(kind: str) -> str:
    if choices := re.search(r"Literal\[(.*)\]", kind):
        return f"use one of {choices[1]}"
    if kind in ("tuple", "list"):
        return "use a list, [a, b]"
    return f"use {_NAMED.get(kind, kind)}"
