"""The notebook runner, as DVC calls it: a process in a folder with params.yaml."""

import json
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import yaml
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

ROOT = Path(__file__).parents[2]
PARAMS = {
    "profile": "smoke",
    "experiments": {"small": {"seeds": {"smoke": [0]}, "bits": 4}, "large": {"seeds": {"paper": [0]}}},
    "datasets": {"vww": {"smoke": None}},
}
PARAMETERS = "profile = ...\nparams = ...\nkey = ...\nmetrics = ..."
READS = "print(profile, key, params['experiments'][key])"
WRITES = "from dbq.files import write_json\nwrite_json(f'{metrics}/metrics.json', {})"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(PARAMS))
    return tmp_path


def write_notebook(folder, *cells, parameters=PARAMETERS, tags=("parameters",)):
    first = new_code_cell(parameters, metadata={"tags": list(tags)})
    notebook = new_notebook(cells=[new_markdown_cell("# Title"), first, *map(new_code_cell, cells)])
    nbformat.write(notebook, folder / "n.ipynb")


def run(folder, *options, key="small", environment=None):
    command = [
        sys.executable,
        str(ROOT / "pipeline" / "run_notebook.py"),
        "n.ipynb",
        "--out",
        "out/report.ipynb",
        "--html",
        "out/report.html",
    ]
    command += ["--key", key, "--result", "metrics=metrics/", *options]
    variables = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1", **(environment or {})}
    return subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(
    ("options", "notebook", "message"),
    [
        (["--set", "colour=red"], {}, "unknown parameters: colour"),
        ([], {"parameters": PARAMETERS + "\nmodel = ..."}, "missing parameters: model"),
        ([], {"parameters": PARAMETERS + "\nrows = 3"}, "never-read parameters: rows"),
        ([], {"tags": ()}, "0 code cells have the tag `parameters`"),
        ([], {"parameters": PARAMETERS + "\nprint(1)"}, "line 5 of the parameters cell"),
        (["--run-in", "experiments.none.seeds.smoke"], {}, "experiments.none.seeds.smoke: no such key"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_runs(folder, options, notebook, message):
    write_notebook(folder, READS, WRITES, **notebook)
    done = run(folder, *options)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and message in done.stderr and done.stderr.count("\n") == 1
    assert not (folder / "runs").exists() and not (folder / "out").exists()


def test_reserved_and_repeated_names_are_refused(folder):
    write_notebook(folder, READS, WRITES)
    assert "profile is passed already" in run(folder, "--set", "profile=paper").stderr
    assert "metrics is passed already" in run(folder, "--set", "metrics=x").stderr


def test_magics_are_no_syntax_errors(folder):
    import notebook_parameters

    write_notebook(folder, "%matplotlib inline\nif True:\n    %precision 3\n!ls", READS, WRITES)
    notebook_parameters.check(folder / "n.ipynb", ["profile", "params", "key", "metrics"])


@pytest.mark.parametrize(
    ("run_in", "reason"),
    [
        ("experiments.large.seeds.smoke", "experiments.large.seeds has no entry smoke"),
        ("datasets.vww.smoke", "datasets.vww.smoke is null"),
    ],
)
def test_not_run_is_written_everywhere_and_papermill_not_imported(folder, run_in, reason):
    write_notebook(folder, READS, WRITES, "values, model", parameters=PARAMETERS + "\nvalues = ...\nmodel = ...")
    (folder / "papermill.py").write_text("raise SystemExit('papermill was imported')")
    paths = {"PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{folder}"}
    done = run(folder, "--run-in", run_in, "--result", "values=values.json", "--result", "model=model.pt", key="large", environment=paths)
    assert (done.returncode, done.stdout) == (0, f"not run: {reason}\n")
    marker = {"status": "not run", "reason": reason}
    assert [json.loads((folder / name).read_text()) for name in ("metrics/metrics.json", "values.json", "model.pt")] == [marker] * 3
    assert reason in (folder / "out" / "report.html").read_text()
    nbformat.validate(nbformat.read(folder / "out" / "report.ipynb", as_version=4))


def test_success_gives_equal_pages_in_any_user_environment(folder):
    # a start-up script and a kernel of another interpreter, which must not be used
    (folder / "ipython" / "profile_default" / "startup").mkdir(parents=True)
    (folder / "ipython" / "profile_default" / "startup" / "00.py").write_text("profile_of_the_user = True")
    kernel = folder / "jupyter" / "kernels" / "python3"
    kernel.mkdir(parents=True)
    (kernel / "kernel.json").write_text(json.dumps({"argv": ["false"], "display_name": "wrong", "language": "python"}))
    write_notebook(folder, READS, WRITES, "import os, sys\nassert 'profile_of_the_user' not in globals()\nos.getcwd(), sys.executable")
    environment = {"IPYTHONDIR": str(folder / "ipython"), "JUPYTER_PATH": str(folder / "jupyter"), "JUPYTER_PREFER_ENV_PATH": "0"}
    (folder / "runs" / "smoke" / "failed").mkdir(parents=True)
    (folder / "runs" / "smoke" / "failed" / "n-small.ipynb").write_text("of an earlier run")

    first = run(folder, "--run-in", "experiments.small.seeds.smoke", environment=environment)
    # on a busy machine the kernel may say that the shutdown interrupted it
    errors = [line for line in first.stderr.splitlines() if "KeyboardInterrupt caught in kernel" not in line]
    assert (first.returncode, errors) == (0, [])
    assert first.stdout == "smoke small {'bits': 4, 'seeds': {'smoke': [0]}}\n"
    page, notebook = (folder / "out" / "report.html").read_bytes(), (folder / "out" / "report.ipynb").read_bytes()
    assert list((folder / "runs" / "smoke" / "failed").iterdir()) == []
    assert str(folder).encode() in page and sys.executable.encode() in page and b"Title" in page
    assert b"http" not in page and b"<script" not in page
    assert b"date_time" not in notebook and b"duration" not in notebook and b"iopub" not in notebook

    assert run(folder, environment={"PYTHONHASHSEED": "0"}).returncode == 0
    assert (folder / "out" / "report.html").read_bytes() == page
    assert (folder / "out" / "report.ipynb").read_bytes() == notebook


def test_a_failure_is_one_line_and_keeps_the_notebook(folder):
    raises = "from dbq.errors import DbqError\nraise DbqError('branch 2 of conv1 is 0', 'lower the learning rate')"
    write_notebook(folder, READS, WRITES, raises)
    done = run(folder)
    failed = folder / "runs" / "smoke" / "failed" / "n-small.ipynb"
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert lines[0] == "error: branch 2 of conv1 is 0 -> lower the learning rate"
    assert len(lines) == 2 and "runs/smoke/failed/n-small.ipynb" in lines[1]
    assert "branch 2 of conv1" in failed.read_text() and "branch 2 of conv1" in failed.with_suffix(".html").read_text()
    assert not (folder / "out").exists()


def test_a_result_that_was_not_written_is_named(folder):
    write_notebook(folder, READS, "metrics")
    done = run(folder)
    assert done.returncode == 2
    assert "ended without writing metrics/" in done.stderr
    assert (folder / "runs" / "smoke" / "failed" / "n-small.ipynb").exists()


def test_a_key_that_the_stage_does_not_declare(folder, monkeypatch):
    import stage_params

    monkeypatch.chdir(folder)
    assert "doesn't declare -> add it" in stage_params.undeclared_key({"profile": "smoke"}, "experiments", "engine@small")
    assert stage_params.undeclared_key({"profile": "smoke"}, "none", "engine@small") is None
    assert stage_params.undeclared_key(stage_params.whole(), "experiments", None) is None
