"""Code that was changed and computes the same: proven by a canary, not asserted.

results/canary.json has one entry for each time that `python -m dbq canary` was run: the machine, the commit, and for each subject (a method
and a network) the digest of its code and of the weights after some steps. Two digests of code are equivalent where one machine got the same
weights from both, bit for bit. A result of equivalent code stays valid.
"""

from pathlib import Path

from dbq.files import read_json

RECORD = Path(__file__).parents[3] / "results" / "canary.json"


def same(code: str, other: str, record: Path = RECORD) -> bool:
    """Whether two digests of code are equal or proven equivalent."""
    return code == other or other in _reachable(code, record)


def _reachable(code: str, record: Path) -> set[str]:
    """Every digest that a chain of canaries leads to."""
    if not Path(record).is_file():
        return set()
    groups: dict[tuple, set[str]] = {}
    for run in read_json(record):
        for subject, one in run["subjects"].items():
            groups.setdefault((run["machine"], subject, one["weights"]), set()).add(one["code"])
    found, waiting = {code}, [code]
    while waiting:
        now = waiting.pop()
        for codes in groups.values():
            if now in codes:
                waiting += codes - found
                found |= codes
    return found
