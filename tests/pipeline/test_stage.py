"""The runner of stages, as DVC calls it: a process in a folder with params.yaml, the resolved settings of a stage, and its notebook."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

import parameters
from dbq.errors import DbqError

ROOT = Path(__file__).parents[2]
PARAMETERS = 'settings_file = "x"\nout = "y"'
WRITES = """import json, pathlib
key = json.load(open(settings_file))["key"]
for name in ("cost.json", "layers.csv", "engine.json"):
    pathlib.Path(out, name).write_text(key)
print("counted", key)"""


@pytest.fixture
def folder(tmp_path):
    shutil.copytree(ROOT / "pipeline", tmp_path / "pipeline", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "params.yaml").write_text("# pages\nprofile: small # or smoke\n")
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "kernels").mkdir()
    return tmp_path


def settings(folder, key="a-1t", reason=None, **changes):
    path = folder / "runs/small/settings/engine" / f"{key}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    status = "not run" if reason else "run"
    path.write_text(json.dumps({"stage": "engine", "key": key, "profile": "small", "status": status, "reason": reason, **changes}))


def notebook(folder, *cells, parameters=PARAMETERS):
    first = new_code_cell(parameters, metadata={"tags": ["parameters"]})
    nbformat.write(new_notebook(cells=[new_markdown_cell("# Title"), first, *map(new_code_cell, cells)]), folder / "notebooks/engine.ipynb")


def start(folder, *words, **environment):
    variables = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "TMPDIR": str(folder / "kernels"), **environment}
    command = [sys.executable, "pipeline/stage.py", *words]
    return subprocess.Popen(command, cwd=folder, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run(folder, *words, **environment):
    process = start(folder, *words, **environment)
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


@pytest.mark.parametrize("key", ["x;touch P;", "$(touch P)", "../up", "/etc/x", "", "A", "-h", ".a", "a" * 81, "ä", "a b"])
def test_a_key_that_could_be_more_than_a_name_is_one_line(folder, key):
    for words, environment in (([f"--key={key}"], {}), ([], {"DVC_STAGE": f"engine@{key}"})):
        status, out, err = run(folder, "engine", *words, **environment)
        assert (status, out, err.count("\n")) == (2, "", 1) and err.startswith("error: ")
        assert sorted(path.name for path in folder.iterdir()) == ["kernels", "notebooks", "params.yaml", "pipeline"]


@pytest.mark.parametrize(
    ("words", "change", "message"),
    [
        (["engine", "--key", "b"], {}, "engine/b.json: no such file -> run `dvc repro settings`"),
        (["tables", "--key", "b"], {}, "tables: it has no key"),
        (["engine", "--key", "a-1t"], {"profile": "paper"}, "of another stage"),
        (["engine", "--key", "a-1t"], {"status": None, "stage": 3}, "of another stage"),
    ],
)
def test_settings_that_are_missing_or_foreign_are_one_line(folder, words, change, message):
    settings(folder, **change)
    status, _, err = run(folder, *words)
    assert status == 2 and message in err and err.count("\n") == 1


def test_a_stage_that_is_not_run_needs_the_standard_library_alone(folder):
    settings(folder, reason="no <seed>")
    old = folder / "runs/small/engine/a-1t/cost.json"
    old.parent.mkdir(parents=True)
    old.write_text("of an earlier run")
    for name in ("dbq", "papermill", "yaml"):
        (folder / "pipeline" / f"{name}.py").write_text("raise SystemExit('imported')")
    status, out, err = run(folder, "engine", DVC_STAGE="engine@a-1t")
    assert (status, out, err) == (0, "not run: no <seed>\n", "")
    assert json.loads((old.parent / "metrics.json").read_text()) == {"status": "not run", "reason": "no <seed>"} and not old.exists()
    assert "no &lt;seed&gt;" in (folder / "runs/small/reports/engine-a-1t/report.html").read_text()


def test_success_leaves_results_and_equal_pages(folder):
    settings(folder)
    startup = folder / "ipython/profile_default/startup"
    startup.mkdir(parents=True)
    (startup / "00.py").write_text("of_the_user = True")
    notebook(folder, WRITES, "import os, sys\nassert 'of_the_user' not in globals()\nos.environ['OMP_NUM_THREADS'], sys.executable")
    pages = []
    for _ in range(2):
        status, out, err = run(folder, "engine", "--key", "a-1t", IPYTHONDIR=str(folder / "ipython"), OMP_NUM_THREADS="7")
        assert (status, out) == (0, "counted a-1t\n"), err
        pages.append([(folder / "runs/small/reports/engine-a-1t" / name).read_bytes() for name in ("report.html", "report.ipynb")])
    assert pages[0] == pages[1] and sys.executable.encode() in pages[0][0]
    assert (folder / "runs/small/engine/a-1t/cost.json").read_text() == "a-1t"
    assert list((folder / "runs/small/failed").iterdir()) == [] == list((folder / "kernels").iterdir())


@pytest.mark.parametrize(
    ("cells", "status", "message"),
    [
        (
            (WRITES, "from dbq.errors import DbqError\nraise DbqError('branch 2 is 0', 'train longer')"),
            1,
            "error: branch 2 is 0 -> train longer\n",
        ),
        ((WRITES, "1 / 0"), 1, "ZeroDivisionError in code cell"),
        (("settings_file, out",), 2, "ended without writing runs/small/engine/a-1t/cost.json"),
    ],
)
def test_a_failure_keeps_the_notebook(folder, cells, status, message):
    settings(folder)
    notebook(folder, *cells)
    found, _, err = run(folder, "engine", "--key", "a-1t")
    assert found == status and message in err and "runs/small/failed/engine-a-1t.ipynb" in err
    assert (folder / "runs/small/failed/engine-a-1t.html").exists() and (folder / "runs/small/failed/engine-a-1t.ipynb").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_kernel_ends_with_its_runner(folder, number):
    settings(folder)
    notebook(folder, "import os, time\nprint(os.getpid(), flush=True)\ntime.sleep(600)", WRITES)
    process = start(folder, "engine", "--key", "a-1t")
    kernel = int(process.stdout.readline())
    process.send_signal(number)
    process.wait(60)
    deadline = time.monotonic() + 60
    while Path(f"/proc/{kernel}").exists() and "State:\tZ" not in Path(f"/proc/{kernel}/status").read_text():
        assert time.monotonic() < deadline, "the kernel goes on"
        time.sleep(0.05)
    left = list((folder / "kernels").iterdir())
    assert left == [] or number == signal.SIGKILL
    process.stdout.close()
    process.stderr.close()
    notebook(folder, WRITES)
    assert run(folder, "engine", "--key", "a-1t")[0] == 0
    assert list((folder / "kernels").iterdir()) == [], "the next run removes what a killed one left"


@pytest.mark.parametrize(
    ("cells", "declared", "message"),
    [
        ((WRITES,), 'settings_file = ""', "unknown parameters: out"),
        ((WRITES,), PARAMETERS + "\nmodel = ...", "missing parameters: model"),
        (("out",), PARAMETERS, "never-read parameters: settings_file"),
        ((WRITES,), PARAMETERS + "\nprint(1)", "line 3 of the parameters cell"),
    ],
)
def test_parameters_that_do_not_fit_are_refused(folder, cells, declared, message):
    notebook(folder, "%matplotlib inline", *cells, parameters=declared)
    with pytest.raises(DbqError, match=message):
        parameters.check(folder / "notebooks/engine.ipynb", ["settings_file", "out"])
