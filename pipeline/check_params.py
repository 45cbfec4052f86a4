"""Check that `dvc exp run -S KEY=VALUE` changes that key of params.yaml and nothing else: `PYTHONPATH=src python pipeline/check_params.py`

DVC rewrites the file: a list in brackets becomes several lines, and a mapping in braces beyond 80 columns is wrapped.
"""

import os
import sys
import tempfile
from pathlib import Path

from dvc.utils.hydra import apply_overrides

from dbq.errors import DbqError, main_with_errors


def rewritten(text: str, override: str) -> list[tuple[str, str]]:
    """(line before, line after) of those that DVC changes; all lines where their number changes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "params.yaml")
        path.write_text(text, encoding="utf-8")
        apply_overrides(path, [override])
        after = path.read_text(encoding="utf-8").splitlines()
    before = text.splitlines()
    return [pair for pair in zip(before, after, strict=False) if pair[0] != pair[1]]


def main() -> None:
    changed = rewritten(Path("params.yaml").read_text(encoding="utf-8"), "engine.batch_size=12345")
    if len(changed) != 1:
        first = next((old.strip() for old, new in changed if "batch_size" not in old), "")
        raise DbqError(
            f"params.yaml: `dvc exp run -S` would rewrite {len(changed)} lines, from: {first}", "write no lists, no wide mappings"
        )
    print("dvc exp run -S changes the key of params.yaml that it sets and nothing else")


if __name__ == "__main__":
    os.chdir(Path(__file__).parents[1])
    sys.exit(main_with_errors(main))
