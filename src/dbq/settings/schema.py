"""Turn a mapping from params.yaml into a dataclass, or say which key is wrong.

A field's metadata may hold `minimum`, `maximum` or `choices`. Nested dataclasses are parsed the same way.
"""

import dataclasses
import math
import types
import typing

from dbq.errors import DbqError


def setting(minimum=None, maximum=None, choices=None, default=dataclasses.MISSING, later=False, counts_as=dataclasses.MISSING):
    """A dataclass field with its range or its choices.

    later: added when results existed already, which have all been measured with its default (see `plain`).
    counts_as: what fingerprints have instead of any value, for a setting that decides how fast a result comes and, like the device, no more
    of the result than its rounding.
    """
    metadata = {"minimum": minimum, "maximum": maximum, "choices": choices, "later": later, "counts_as": counts_as}
    return dataclasses.field(default=default, metadata=metadata)


def plain(value):
    """A dataclass as a dict, for fingerprints: a later setting counts only where it differs from its default, so that the fingerprints of
    earlier results stay what they were; one with `counts_as` has that. Any other value as it is."""
    if not dataclasses.is_dataclass(value):
        return value
    kept = [
        field for field in dataclasses.fields(value) if not (field.metadata.get("later") and getattr(value, field.name) == field.default)
    ]
    stand_ins = {field.name: field.metadata.get("counts_as", dataclasses.MISSING) for field in kept}
    return {name: plain(getattr(value, name)) if other is dataclasses.MISSING else other for name, other in stand_ins.items()}


def parse(kind: type, mapping, where: str):
    """Build the dataclass `kind` from `mapping`; `where` is the dotted key that errors name.

    Raises DbqError for an unknown or missing key, a wrong type, and a value out of range.
    """
    if not isinstance(mapping, dict):
        raise DbqError(f"{where}: expected a mapping, found {mapping!r}", "see the entries beside it in params.yaml")
    fields = {field.name: field for field in dataclasses.fields(kind)}
    unknown = sorted(str(name) for name in mapping if name not in fields)
    if unknown:
        raise DbqError(f"{where}: unknown key {', '.join(unknown)}", f"known keys are {', '.join(fields)}")
    missing = [name for name, field in fields.items() if name not in mapping and field.default is dataclasses.MISSING]
    if missing:
        raise DbqError(f"{where}: missing key {', '.join(missing)}", "add it in params.yaml")
    annotations = typing.get_type_hints(kind)
    values = {name: _convert(annotations[name], value, f"{where}.{name}", fields[name].metadata) for name, value in mapping.items()}
    return kind(**values)


def _convert(annotation, value, where, metadata):
    if dataclasses.is_dataclass(annotation):
        return parse(annotation, value, where)
    _check_type(annotation, value, where)
    if annotation is float:
        value = float(value)
        if not math.isfinite(value):
            raise DbqError(f"{where}: {value} is not finite", "give a finite number")
    choices, minimum, maximum = (metadata.get(name) for name in ("choices", "minimum", "maximum"))
    if choices is not None and value not in choices:
        raise DbqError(f"{where}: unknown value {value!r}", f"choose one of {', '.join(map(str, choices))}")
    if (minimum is not None and value < minimum) or (maximum is not None and value > maximum):
        limits = f"at least {minimum}" if maximum is None else f"between {minimum} and {maximum}"
        raise DbqError(f"{where}: {value} is out of range", f"it must be {limits}")
    return value


def _check_type(annotation, value, where):
    if isinstance(annotation, types.UnionType):
        fits = any(_fits(option, value) for option in typing.get_args(annotation))
        name = str(annotation)
    else:
        fits = _fits(annotation, value)
        name = getattr(annotation, "__name__", str(annotation))
    if not fits:
        hint = " (YAML reads 1e-3 as text: write 1.0e-3)" if isinstance(value, str) and annotation is float else ""
        raise DbqError(f"{where}: {value!r} has the wrong type", f"expected {name}{hint}")


def _fits(annotation, value) -> bool:
    origin = typing.get_origin(annotation)
    if origin is list:
        (item,) = typing.get_args(annotation)
        return isinstance(value, list) and all(_fits(item, element) for element in value)
    if origin is dict:
        key, item = typing.get_args(annotation)
        return isinstance(value, dict) and all(_fits(key, name) and _fits(item, element) for name, element in value.items())
    if annotation is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if annotation is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, annotation)
