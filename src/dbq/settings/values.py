"""What is common to all settings: unknown keys, wrong types and values out of range are errors that name the key.

A settings object is read-only, and holds values only: what follows from them is computed where they are used. That is why the digest of
a result needs the values and not the code in this room.
"""

import difflib

from pydantic import BaseModel, ConfigDict, ValidationError

from dbq.errors import DbqError


class Faults(DbqError):
    """All faults of a file, one line each."""

    def __init__(self, errors: list[DbqError]):
        super().__init__(errors[0].problem, errors[0].remedy)
        self.errors = errors
        self.args = ("\n".join(map(str, errors)),)


def words(value):
    """A list, or names separated by spaces: `dvc exp run -S` would write a list over several lines."""
    return value.split() if isinstance(value, str) else value


class Settings(BaseModel):
    """A group of keys. Keys without a default must be given."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def parse(kind: type[Settings], mapping, where: str) -> Settings:
    """Build `kind` from a mapping of params.yaml; `where` is its dotted key. Raises DbqError with the first fault; `faults` gives all."""
    try:
        return kind.model_validate(mapping)
    except ValidationError as error:
        raise DbqError(*_explain(kind, error.errors()[0], where)) from None


def _explain(kind: type[Settings], fault: dict, where: str) -> tuple[str, str]:
    """Problem and remedy of one of pydantic's faults."""
    path = [
        str(part) for part in fault["loc"] if not (isinstance(part, str) and part.startswith(("function-", "constrained-", "literal[")))
    ]
    key, value = ".".join([where, *path]), fault.get("input")
    if fault["type"] == "extra_forbidden":
        known = sorted(_known(kind, path[:-1]))
        near = difflib.get_close_matches(path[-1], known, 1)
        return f"{key}: unknown key", f"did you mean {near[0]}?" if near else f"known keys are {', '.join(known)}"
    if fault["type"] == "missing":
        return f"{key}: missing", "add the key"
    if fault["type"] in ("model_type", "dict_type", "model_attributes_type"):
        return f"{key}: {_short(value)} is not a mapping", "write key: value pairs"
    if isinstance(value, str) and "float" in fault["type"]:
        return f"{key}: {_short(value)} is text", "write a number with a point, as in 1.0e-3 (YAML reads 1e-3 as text)"
    message = fault["msg"].removeprefix("Value error, ").removeprefix("Input ")
    return f"{key}: {_short(value)}", message


def _known(kind: type[Settings], path: list[str]) -> set[str]:
    """The keys of the nested settings at `path`."""
    for name in path:
        field = kind.model_fields.get(name)
        inner = field.annotation if field else None
        if not (isinstance(inner, type) and issubclass(inner, Settings)):
            return set()
        kind = inner
    return set(kind.model_fields)


def _short(value) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
