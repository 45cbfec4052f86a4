"""Which of the project's modules a piece of code runs, and a digest of them.

The closure is read from import statements, those inside functions included, without importing anything. The digest is that of the syntax
trees without comments and docstrings: a remark changes nothing, a constant does.

Two kinds of imports are left out. What stands under `if TYPE_CHECKING` never runs. `dbq.settings` and `dbq.validity` turn params.yaml into
values and values into digests: the values are in a result's digest themselves. Modules that are chosen by a name in the settings (a
quantizer's, a network's, a data source's) are imported by name; whoever asks for a closure adds them.
"""

import ast
import functools
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from dbq.errors import DbqError

PACKAGE = "dbq"
LEFT_OUT = ("dbq.settings", "dbq.validity")
SOURCE = Path(__file__).parents[1]


def closure(roots: Iterable[str], source: Path = SOURCE) -> list[str]:
    """The names of all modules that importing `roots` (module names) can run, sorted, packages included."""
    found: set[str] = set()
    waiting = list(roots)
    while waiting:
        name = waiting.pop()
        if name in found or name.startswith(LEFT_OUT):
            continue
        if _file(name, source) is None:
            raise DbqError(f"{name}: no such module below {source}", "correct the import")
        found.add(name)
        parent = name.rpartition(".")[0]
        waiting += [parent] if parent else []
        waiting += _imports(str(_file(name, source)), source)
    return sorted(found)


def digest(roots: Iterable[str], source: Path = SOURCE, text: str = "") -> str:
    """Hex sha256 of the code of a closure. text: Python source that isn't a module (a notebook's), with what it imports."""
    imported, own = _text(text, source)
    names = closure([*roots, *imported], source)
    total = hashlib.sha256()
    for name in names:
        total.update(f"{name} {_module_digest(str(_file(name, source)))};".encode())
    total.update(own)
    return total.hexdigest()


@functools.cache
def _text(text: str, source: Path) -> tuple[list[str], bytes]:
    """What Python source imports, and the digest of its syntax tree (nothing of no source)."""
    tree = parsed(text, "a notebook")
    return imports(tree, source), hashlib.sha256(ast.dump(tree).encode()).digest() if text else b""


def imports(tree: ast.Module, source: Path = SOURCE) -> list[str]:
    """The project's modules that a syntax tree imports."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.split(".")[0] == PACKAGE]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and (node.module or "").split(".")[0] == PACKAGE:
            found.append(node.module)
            found += [name for alias in node.names if _file(name := f"{node.module}.{alias.name}", source) is not None]
    return found


def notebook_source(path) -> str:
    """The code of a notebook's cells but for its parameters cell, whose values are a stage's own; magics are left out."""
    try:
        cells = json.loads(Path(path).read_text(encoding="utf-8"))["cells"]
    except (OSError, ValueError, KeyError) as error:
        raise DbqError(f"{path}: not a notebook ({error})", "restore it with `git checkout`") from None
    code = [
        "".join(cell["source"]) for cell in cells if cell["cell_type"] == "code" and "parameters" not in cell["metadata"].get("tags", [])
    ]
    return "\n".join(line if not line.lstrip().startswith(("%", "!")) else "pass" for line in "\n".join(code).splitlines())


def parsed(text: str, where: str) -> ast.Module:
    """The syntax tree without docstrings and without what stands under `if TYPE_CHECKING`."""
    try:
        tree = ast.parse(text)
    except SyntaxError as error:
        raise DbqError(f"{where}, line {error.lineno}: {error.msg}", "mend it") from None
    for node in ast.walk(tree):
        for name in ("body", "orelse"):
            body = getattr(node, name, None)
            if isinstance(body, list):
                setattr(node, name, [part for part in body if not _unused(part, node, body)])
    return tree


def _unused(part, node, body: list) -> bool:
    if isinstance(part, ast.If) and ast.unparse(part.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
        return True
    holds_docstring = isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
    text = isinstance(part, ast.Expr) and isinstance(part.value, ast.Constant) and isinstance(part.value.value, str)
    return holds_docstring and text and part is body[0]


@functools.cache
def _file(name: str, source: Path) -> Path | None:
    """The file of a module or package; None where there is none."""
    path = source.joinpath(*name.split(".")[1:])
    if name.split(".")[0] != PACKAGE:
        return None
    module, package = path.with_suffix(".py") if name != PACKAGE else None, path / "__init__.py"
    if module is not None and path.suffix == "" and module.is_file():
        return module
    return package if package.is_file() else None


@functools.cache
def _tree(path: str) -> ast.Module:
    return parsed(Path(path).read_text(encoding="utf-8"), path)


@functools.cache
def _imports(path: str, source: Path) -> list[str]:
    return imports(_tree(path), source)


@functools.cache
def _module_digest(path: str) -> str:
    return hashlib.sha256(ast.dump(_tree(path)).encode()).hexdigest()
