"""Resolved settings as text and as a table."""

import pandas as pd
from pydantic import BaseModel

# names of a row, and what follows from its quantizer
_NOT_COMPARED = {"key", "profile", "seeds", "compared_with", "weight_bits", "branches"}


def flat(values) -> dict[str, object]:
    """The values of a mapping or of a settings object by dotted key. A temperature is one value, whether it changes or not."""
    found = {}
    for name, value in (values if isinstance(values, dict) else values.model_dump()).items():
        if isinstance(value, BaseModel):
            value = value.model_dump()
        if not isinstance(value, dict):
            found[name] = value
        elif set(value) == {"schedule", "start", "end"}:
            constant = value["schedule"] == "constant"
            found[name] = value["start"] if constant else f"{value['schedule']} {value['start']} to {value['end']}"
        else:
            found |= {f"{name}.{key}": inner for key, inner in flat(value).items()}
    return found


def settings(*parts) -> pd.DataFrame:
    """The values of mappings and settings objects as one table (setting, value)."""
    rows = [(name, str(value)) for part in parts for name, value in flat(part).items()]
    return pd.DataFrame(rows, columns=["setting", "value"])


def changes(row, base) -> str:
    """What the settings of a row change in those of the row that it extends, as `temperature: 3.0 → 6.0`."""
    old, new = (flat(entry.model_dump(exclude=_NOT_COMPARED)) for entry in (base, row))
    both = [(name, old.get(name, "-"), new.get(name, "-")) for name in dict.fromkeys([*old, *new])]
    changed = {name.removeprefix("quantizer.").removeprefix("training."): f"{one} → {two}" for name, one, two in both if one != two}
    return "; ".join(f"{name.replace('_', ' ').replace('.', ' ')}: {change}" for name, change in changed.items())
