"""Presets of params.yaml: `extends` names the preset whose keys one has, but for those that it changes."""

import difflib

from dbq.errors import DbqError

SHOWN = 12  # names in an error


def lookup(section: dict, name: str, where: str, kind: str):
    """section[name]; an unknown name is an error that lists what there is."""
    if not isinstance(name, str) or name not in section:
        near = difflib.get_close_matches(str(name), map(str, section), 1)
        names = [str(known) for known in section]
        shown = ", ".join(names) if len(names) <= SHOWN else f"{', '.join(names[:SHOWN])}, .. (`python -m dbq check` lists all)"
        remedy = f"did you mean {near[0]}?" if near else f"there are {shown}"
        raise DbqError(f"{where}: no {kind} {name!r}", remedy)
    return section[name]


def changed(base, change):
    """`base` with the keys that `change` has; mappings in mappings are changed the same way."""
    if not isinstance(base, dict) or not isinstance(change, dict):
        return change
    return {**base, **{name: changed(base.get(name), value) for name, value in change.items()}}


def chain(section: dict, name: str, where: str, kind: str) -> list[tuple[str, dict]]:
    """(name, its own keys) of a preset and what it extends, the root first."""
    links: list[tuple[str, dict]] = []
    while True:
        entry = lookup(section, name, where, kind)
        if not isinstance(entry, dict):
            raise DbqError(f"{where}: the {kind} {name} is not a mapping", "write key: value pairs")
        if any(name == other for other, _ in links):
            raise DbqError(f"{where}: the {kind} {name} extends itself", "let one of the chain extend nothing")
        links.insert(0, (name, {key: value for key, value in entry.items() if key != "extends"}))
        if "extends" not in entry:
            return links
        name, where = entry["extends"], f"{kind} {name}: extends"


def preset(section: dict, name: str, where: str, kind: str) -> dict:
    """The keys of a preset with those of what it extends."""
    result: dict = {}
    for _, keys in chain(section, name, where, kind):
        result = changed(result, keys)
    return result
