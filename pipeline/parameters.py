"""Which parameters a notebook declares and reads, checked before a kernel starts.

The code cell with the tag `parameters` declares them, one assignment each. `name = ...` (an Ellipsis) means that the runner has to pass it.
papermill itself exits 0 on a misspelled parameter; here a name that is unknown, missing or never read is an error.
"""

import ast
import json
from pathlib import Path

from dbq.errors import DbqError


def read_cells(path) -> list[dict]:
    """The cells of a notebook file, with each source joined to one string. Raises DbqError for a missing or damaged file."""
    try:
        cells = json.loads(Path(path).read_text(encoding="utf-8"))["cells"]
        return [{**cell, "source": "".join(cell["source"])} for cell in cells]
    except FileNotFoundError:
        raise DbqError(f"{path}: no such notebook", "correct the path in dvc.yaml") from None
    except (ValueError, KeyError, TypeError) as error:
        raise DbqError(f"{path}: not a notebook of format 4 ({error})", "restore it with `git checkout`") from None


def check(path, passed) -> None:
    """Raise DbqError, with the names, unless the names passed are those that the notebook at `path` declares and reads."""
    cells = [cell for cell in read_cells(path) if cell["cell_type"] == "code"]
    places = [place for place, cell in enumerate(cells) if "parameters" in cell["metadata"].get("tags", [])]
    if len(places) != 1:
        problem = f"{path}: {len(places)} code cells have the tag `parameters`"
        raise DbqError(problem, "give the tag to the one cell that declares the parameters")
    place = places[0]
    declared = _declared(path, cells[place]["source"])
    read = set().union(*(_read(path, number, cell["source"]) for number, cell in enumerate(cells) if number > place))
    _refuse(path, "unknown", set(passed) - set(declared), "declare them in the parameters cell or don't pass them")
    _refuse(
        path, "missing", {name for name, needed in declared.items() if needed} - set(passed), "pass them in the stage's command in dvc.yaml"
    )
    _refuse(path, "never-read", set(declared) - read, "use them in a later cell or remove them from the parameters cell and the command")


def _refuse(path, fault: str, names: set, remedy: str) -> None:
    if names:
        raise DbqError(f"{path}: {fault} parameters: {', '.join(sorted(names))}", remedy)


def _declared(path, source: str) -> dict[str, bool]:
    """Name -> whether it has to be passed."""
    declared = {}
    for statement in _parsed(path, "the parameters cell", source).body:
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)], value=value) | ast.AnnAssign(target=ast.Name(id=name), value=value):
                declared[name] = isinstance(value, ast.Constant) and value.value is Ellipsis
            case _:
                raise DbqError(
                    f"{path}: line {statement.lineno} of the parameters cell is no assignment to one name",
                    "keep only `name = value` in it, and move the rest to the next cell",
                )
    return declared


def _read(path, number: int, source: str) -> set[str]:
    """Names that a cell loads."""
    tree = _parsed(path, f"code cell {number + 1}", source)
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}


def _parsed(path, place: str, source: str) -> ast.Module:
    # IPython's magics are no Python; `pass` instead of nothing keeps a block that holds only a magic valid
    lines = [
        line[: len(line) - len(line.lstrip())] + "pass" if line.lstrip().startswith(("%", "!")) else line for line in source.split("\n")
    ]
    try:
        return ast.parse("\n".join(lines))
    except SyntaxError as error:
        raise DbqError(f"{path}: {place}, line {error.lineno}: {error.msg}", "correct the cell") from None
