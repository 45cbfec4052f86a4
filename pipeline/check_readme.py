"""Check that what the Markdown pages name exists: paths, make targets, modules, stages. `PYTHONPATH=src python pipeline/check_readme.py`

Only code (spans in backticks, fenced blocks) and link targets are looked at. A word in capitals, <angle brackets>, * or ${...} stands for
anything.
"""

import os
import re
import sys
from fnmatch import fnmatchcase
from pathlib import Path

import yaml

from dbq.errors import DbqError, main_with_errors

SOURCE_SUFFIXES = {".py", ".md", ".yaml", ".toml", ".ipynb", ".txt", ".lock", ".v"}  # files that somebody wrote, not results
MADE = {"runs", "results", "data/prepared", "data/raw"}
PLACEHOLDER = r"\$\{[^}]*\}|<[^>]*>|\b[A-Z][A-Z_-]+\b"


class Tree:
    """A repository's root folder and what its pipeline makes."""

    def __init__(self, root):
        self.root = Path(root)
        self.params = yaml.safe_load((self.root / "params.yaml").read_text(encoding="utf-8"))
        self.stages = yaml.safe_load((self.root / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
        self.targets = set(re.findall(r"^([a-z][\w-]*):", (self.root / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
        self.made = [*self._ignored(""), *self._ignored(".dvc/"), *self._outputs()]

    def _ignored(self, folder: str):
        """Paths that the .gitignore of a folder ignores by their place."""
        file = self.root / folder / ".gitignore"
        lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
        return [folder + line.strip("/") for line in lines if line.startswith("/")]

    def _outputs(self):
        for stage in self.stages.values():
            for output in stage.get("do", stage).get("outs", []):
                yield re.sub(r"\$\{[^}]*\}", "*", output if isinstance(output, str) else next(iter(output)))

    def files(self) -> list[Path]:
        """What somebody wrote: no folder that begins with a dot, nothing that the pipeline makes."""
        found = []
        for folder, folders, names in os.walk(self.root):
            here = Path(folder).relative_to(self.root)
            folders[:] = sorted(name for name in folders if not name.startswith(".") and (here / name).as_posix() not in MADE)
            found += [self.root / here / name for name in sorted(names)]
        return found

    def has_path(self, path: str, page: Path) -> bool:
        """Whether the path exists, seen from the root or from the page's folder, or the pipeline makes it; a bare name may lie anywhere."""
        pattern = re.sub(PLACEHOLDER, "*", path).strip("/").removeprefix("./")
        if any(_same_way(pattern, made) for made in self.made):
            return True
        if "/" not in pattern and any(fnmatchcase(file.name, pattern) for file in self.files()):
            return True
        return any(any(folder.glob(pattern)) if "*" in pattern else (folder / pattern).exists() for folder in (self.root, page.parent))

    def has_module(self, name: str) -> bool:
        """Whether `python -m NAME` finds a file below src/."""
        path = self.root / "src" / name.replace(".", "/")
        return path.with_suffix(".py").exists() or (path / "__main__.py").exists()

    def has_stage(self, name: str) -> bool:
        name, _, key = name.partition("@")
        each = re.fullmatch(r"\$\{(\w+)\}", str(self.stages.get(name, {}).get("foreach", "")))
        if name not in self.stages or (key and not each):
            return False
        return not key or key in self.params.get(each[1], {}) or re.search(PLACEHOLDER, key) is not None

    def has_command(self, name: str) -> bool:
        """Whether `python -m dbq NAME` is a command of this package."""
        from dbq.command import app

        return name in {command.name or command.callback.__name__ for command in app.registered_commands}


def _same_way(path: str, made: str) -> bool:
    """Whether one of the two lies in the other or is the other; * stands for one folder."""
    pairs = zip(path.split("/"), made.split("/"), strict=False)
    return all(fnmatchcase(one, other) or fnmatchcase(other, one) for one, other in pairs)


def faults(page: Path, tree: Tree) -> list[str]:
    """What the page names and the repository lacks, one line each."""
    text = page.read_text(encoding="utf-8")
    fenced = re.findall(r"^```[^\n]*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    prose = re.sub(r"^```[^\n]*\n.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    spans = re.findall(r"`([^`\n]+)`", prose)
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", prose) if not re.match(r"[a-z]+:|#", link)]
    code = "\n".join([*fenced, *spans])
    found = [
        f"no path {path}" for path in [*links, *filter(lambda span: _is_path(span, tree), spans)] if path and not tree.has_path(path, page)
    ]
    found += [f"no file {path}" for path in re.findall(r"python3? (?:-u )?([\w./-]+\.py)\b", code) if not tree.has_path(path, page)]
    found += [f"no target of make: {name}" for name in re.findall(r"\bmake ([a-z][\w-]*)", code) if name not in tree.targets]
    found += [f"no module {name}" for name in re.findall(r"python3? -m (dbq[\w.]*)", code) if not tree.has_module(name)]
    found += [f"no command {name}" for name in re.findall(r"python3? -m dbq ([a-z][\w-]*)", code) if not tree.has_command(name)]
    names = re.findall(r"(?<![\w/.-])([a-z]+@[\w${}.-]+)", code) + re.findall(r"dvc repro (?:-\S+ )*([a-z][\w@${}.-]*)", code)
    found += [f"no stage {name}" for name in names if not tree.has_stage(name.rstrip("."))]
    shown = page.relative_to(tree.root)
    return [f"{shown}: {fault}" for fault in dict.fromkeys(found)]


def _is_path(span: str, tree: Tree) -> bool:
    if not re.fullmatch(r"[\w./${}<>*-]+", span) or span.startswith(("/", "-", "~", "$")):
        return False
    path = Path(span)
    if "/" in span:
        return (
            path.suffix in SOURCE_SUFFIXES
            or (tree.root / path.parts[0]).exists()
            or any(made.startswith(path.parts[0]) for made in tree.made)
        )
    return path.suffix in SOURCE_SUFFIXES and path.stem != "" and not span.startswith("*")


def main() -> None:
    tree = Tree(Path.cwd())
    if not (tree.root / "README.md").exists():
        raise DbqError("README.md: no such file", "write it")
    pages = [file for file in tree.files() if file.suffix == ".md"]
    found = [fault for page in pages for fault in faults(page, tree)]
    if found:
        raise DbqError("; ".join(found), "correct the page, or make what it names")
    print(f"{len(pages)} pages name nothing that is missing")


if __name__ == "__main__":
    sys.exit(main_with_errors(main))
