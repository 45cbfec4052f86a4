"""Small displays that every notebook uses."""

import dataclasses

import pandas as pd


def settings(*parts) -> pd.DataFrame:
    """The resolved settings of mappings and dataclasses as one table (setting, value)."""
    rows = []
    for part in parts:
        values = {item.name: getattr(part, item.name) for item in dataclasses.fields(part)} if dataclasses.is_dataclass(part) else part
        for name, value in values.items():
            inner = dataclasses.asdict(value) if dataclasses.is_dataclass(value) else None
            rows += [(f"{name}.{key}", str(entry)) for key, entry in inner.items()] if inner else [(name, str(value))]
    return pd.DataFrame(rows, columns=["setting", "value"])
