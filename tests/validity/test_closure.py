"""Which stages go out of date for which change of code: completeness of the closure, and what a digest ignores."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dbq.errors import DbqError
from dbq.validity import closure, identity

NOTEBOOKS = sorted(Path("notebooks").glob("*.ipynb"))
ROWS = {"dbq": "resnet20", "twn": "mobilenet_v1"}


@pytest.fixture
def source(tmp_path):
    """A copy of src/dbq whose modules may be changed."""
    shutil.copytree(closure.SOURCE, tmp_path / "dbq", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path / "dbq"


def modules(method: str, network: str) -> list[str]:
    return [f"dbq.networks.{network}", "dbq.quantizers.uniform", f"dbq.quantizers.{method}"]


def digests(source) -> dict[str, str]:
    """The code of two trainings, of a float training and of counting one of them."""
    closure._tree.cache_clear()
    closure._module_digest.cache_clear()
    found = {f"train {method}": closure.digest([identity.TRAINING, *modules(method, network)], source) for method, network in ROWS.items()}
    found["train float"] = closure.digest([identity.TRAINING, "dbq.networks.resnet20"], source)
    found["engine dbq"] = closure.digest([*identity.ENGINE, *modules("dbq", "resnet20")], source)
    return found


@pytest.mark.parametrize(
    ("module", "stale"),
    [
        ("training/loop.py", {"train dbq", "train twn", "train float"}),
        ("training/optimiser.py", {"train dbq", "train twn", "train float"}),
        ("datasets/loader.py", {"train dbq", "train twn", "train float", "engine dbq"}),
        ("quantizers/twn.py", {"train twn"}),
        ("quantizers/lsq.py", set()),
        ("quantizers/initial.py", {"train dbq", "train twn", "train float", "engine dbq"}),
        ("networks/mobilenet_v1.py", {"train twn"}),
        ("cost/formulas.py", {"engine dbq"}),
        ("integer/execute.py", {"engine dbq"}),
        ("report/tables.py", set()),
        ("settings/plan.py", set()),
    ],
)
def test_a_changed_constant_makes_exactly_the_results_stale_that_it_may_change(source, module, stale):
    before = digests(source)
    path = source / module
    path.write_text(path.read_text() + "\nCHANGED = 1\n")
    after = digests(source)
    assert {name for name in before if before[name] != after[name]} == stale


def test_remarks_make_nothing_stale(source):
    before = digests(source)
    for path in source.rglob("*.py"):
        text = path.read_text()
        tree_start = '"""Another text."""\n' if text.startswith('"""') else ""
        body = text.split('"""', 2)[2] if text.startswith('"""') else text
        path.write_text(f"{tree_start}{body}\n# a remark\n")
    assert digests(source) == before


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
@pytest.mark.parametrize("method", ROWS)
def test_the_closure_holds_every_module_that_a_notebook_loads(notebook, method):
    """The notebook's imports run in a fresh interpreter, with what a row chooses by name."""
    text = closure.notebook_source(notebook)
    chosen = modules(method, ROWS[method])
    known = set(closure.closure([*chosen, *closure.imports(closure.parsed(text, notebook.name))]))
    lines = [line for line in text.splitlines() if line.startswith(("import dbq", "from dbq"))]
    code = "\n".join([*lines, *(f"import {name}" for name in chosen), "import json, sys", "print(json.dumps(sorted(sys.modules)))"])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={"PYTHONPATH": "src", "PATH": ""})
    assert done.returncode == 0, done.stderr
    loaded = {name for name in json.loads(done.stdout.splitlines()[-1]) if name.split(".")[0] == "dbq"}
    assert loaded  # a notebook that imported nothing would prove nothing
    assert {name for name in loaded - known if not name.startswith(closure.LEFT_OUT)} == set()


def test_imports_inside_functions_count_and_type_checking_ones_do_not(tmp_path):
    package = tmp_path / "dbq"
    package.mkdir()
    for name, text in {
        "__init__": "", "a": "def f():\n    from dbq import b\n", "b": "import dbq.c\n", "c": "", "d": "",
        "e": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from dbq import d\n",
    }.items():  # fmt: skip
        (package / f"{name}.py").write_text(text)
    assert closure.closure(["dbq.a"], package) == ["dbq", "dbq.a", "dbq.b", "dbq.c"]
    assert closure.closure(["dbq.e"], package) == ["dbq", "dbq.e"]
    with pytest.raises(DbqError, match=r"dbq\.z: no such module"):
        closure.closure(["dbq.z"], package)
