"""The configurations behind a table, as YAML: each row's whole, or what differs from the first row
on the same data.

    row 1:
      run: fedavg, ml-100k, train
      settings: {rounds: 150, ...}
    row 2:
      run: fedprox, ml-100k, train
      as: row 1
      but: {strategy.class_path: fedjax_rec.strategies.fedprox, strategy.init_args.mu: 0.0001}

Keys are dotted where they differ, as the command line takes them; a value `absent` is of a key that
the first row has and this one has not.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import yaml

from fedjax_rec.report.reading import Group

# Keys of data that split nothing.
NO_SPLIT = ("clients", "negatives", "evaluation_negatives", "evaluation_draws", "features")
HEAD = "# Settings of {}, written by `fedjax-rec report`; do not edit by hand.\n"


def settings(
    title: str, rows: Iterable[Group], references: Iterable[Group] = (), above: int = 0
) -> str:
    """The text of a file of settings.

    Args:
        title: what the table is called.
        rows: its rows, in their order.
        references: its lines of reference, in theirs.
        above: how many lines stand above the first of the rows.
    """
    found = {**compared(rows, "row", above), **compared(references, "reference")}
    text = yaml.safe_dump(found, sort_keys=False, width=120, allow_unicode=True)
    return HEAD.format(title) + text


def compared(groups: Iterable[Group], called: str, above: int = 0) -> dict[str, dict[str, Any]]:
    """`row 1` -> its whole settings, or what differs from the first row on the same data."""
    told, first = {}, {}
    for place, each in enumerate(groups, start=1 + above):
        setting = each.runs[0].setting()
        like, base = first.setdefault(each.field("data"), (place, setting))
        name = ", ".join(each.field(key) for key in ("name", "data", "negatives"))
        told[f"{called} {place}"] = {"run": name} | (
            {"settings": setting}
            if like == place
            else {"as": f"{called} {like}", "but": _differing(base, setting)}
        )
    return told


def names(groups: Iterable[Group]) -> dict[int, str]:
    """What rows are called, by id of the group: their name, and where another row of the name has
    other data or another evaluation, how they differ from the first of it."""
    return _told_apart(groups, "name", lambda setting: setting)


def data_names(groups: Iterable[Group]) -> dict[int, str]:
    """What their data are called, by id of the group, where it tells those of one name apart that
    are split or filtered otherwise. Who holds users, and negatives, make no other data."""
    kept = lambda data: {key: value for key, value in data.items() if key not in NO_SPLIT}
    return _told_apart(groups, "data", lambda setting: {"data": kept(setting["data"])})


MOST = 4  # columns of settings, beyond which they are of other configurations altogether


def differing(groups: Sequence[Group]) -> dict[str, list[str]]:
    """Short key -> its value in each of the groups, of the keys that they differ in; none where
    these are more than `MOST`."""
    flat = [_flat(each.runs[0].setting()) for each in groups]
    keys = [
        key
        for key in dict.fromkeys(key for one in flat for key in one)
        if key != "rounds" and len({str(one.get(key, "")) for one in flat}) > 1
    ]
    if len(keys) > MOST:
        return {}
    plain = [key.replace("init_args.", "").removesuffix(".class_path") for key in keys]
    ends = [key.rpartition(".")[2] for key in plain]
    called = [key if ends.count(end) > 1 else end for key, end in zip(plain, ends, strict=True)]
    value = lambda one, key: "" if one.get(key) is None else _plain(one[key])
    return {name: [value(one, key) for one in flat] for name, key in zip(called, keys, strict=True)}


def _plain(value: Any) -> str:
    """As a cell shows it: a factory by its last word, 10.0 as 10."""
    if isinstance(value, float):
        return f"{value:g}"
    text = str(value)
    return text.rpartition(".")[2] if re.fullmatch(r"[\w.]+\.[A-Za-z_]\w*", text) else text


def _told_apart(
    groups: Iterable[Group], field: str, kept: Callable[[dict], dict]
) -> dict[int, str]:
    first: dict[str, dict[str, Any]] = {}
    told = {}
    for each in groups:
        name, setting = each.field(field), each.runs[0].setting()
        mine = {key: setting.get(key) or {} for key in ("data", "evaluation")}
        mine = {key: x if isinstance(x, Mapping) else {"": x} for key, x in mine.items()}
        mine["data"] = {**mine["data"], "catalogue": each.runs[0].catalogue()}
        mine = kept(mine)
        base = first.setdefault(name, mine)
        changed = ", ".join(f"{key}={value}" for key, value in _differing(base, mine).items())
        told[id(each)] = f"{name} ({changed})" if changed else name
    return told


def _differing(base: Mapping[str, Any], setting: Mapping[str, Any]) -> dict[str, Any]:
    """What `setting` has otherwise than `base`, by dotted keys."""
    old, new = _flat(base), _flat(setting)
    changed = {key: value for key, value in new.items() if old.get(key, base) != value}
    return changed | {key: "absent" for key in old if key not in new}


def _flat(setting: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """{"strategy.init_args.epochs": 1}: dotted keys, as the command line takes them."""
    found: dict[str, Any] = {}
    for key, value in setting.items():
        inner = isinstance(value, Mapping) and value
        found |= _flat(value, f"{above}{key}.") if inner else {f"{above}{key}": value}
    return found
