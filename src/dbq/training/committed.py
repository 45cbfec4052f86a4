"""Results that are committed under results/PROFILE: a stage takes a valid one instead of training again.

A result is valid for a training with the same settings, data and start, by code that is the same or proven to compute the same. Its weights
are not kept there.
"""

import csv
from pathlib import Path

from dbq.files import read_json
from dbq.validity import equivalence


def folder(results, stage: str, key: str) -> Path:
    return Path(results) / "metrics" / stage / key


def valid(results, stage: str, key: str, seed: int, identity: dict) -> dict | None:
    """What was recorded of this seed, if it is valid for `identity`."""
    path = folder(results, stage, key) / "metrics.json"
    if not path.is_file():
        return None
    for record in read_json(path).get("seeds", []):
        found = record["identity"]
        equal = all(found[name] == identity[name] for name in ("settings", "data", "start"))
        if record["seed"] == seed and equal and equivalence.same(found["code"], identity["code"]):
            return record
    return None


def history(results, stage: str, key: str, seed: int) -> list[dict]:
    """The recorded epochs of one seed; values as text."""
    path = folder(results, stage, key) / "history.csv"
    if not path.is_file():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if int(row["seed"]) == seed]
