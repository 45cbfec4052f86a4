"""Stages side by side on a small graph: in order, alone where they measure time, and as far as possible when one fails."""

import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
# a stage notes when it began and ended; `meet` are stages that wait until the other has begun, so they pass only side by side
STAGE = """
import pathlib, sys, time
name, *meet = sys.argv[1:]
log = lambda word: open("calls.log", "a").write(f"{word} {name}\\n")
log("begin")
if pathlib.Path(f"break-{name}").exists():
    sys.exit(f"{name} is broken")
end = time.monotonic() + 60
while not all(f"begin {other}\\n" in open("calls.log").read() for other in meet):
    assert time.monotonic() < end, "the other stage didn't begin"
    time.sleep(0.05)
pathlib.Path(f"{name}.out").write_text(pathlib.Path("source").read_text())
log("end")
"""
RESOLVE = """
import pathlib, re, sys
text = pathlib.Path("params.yaml").read_text()
if "bad" in text:
    sys.exit("error: params.yaml: bad -> good")
folder = pathlib.Path("runs", re.search("profile: (.*)", text)[1], "settings")
folder.mkdir(parents=True, exist_ok=True)
(folder / "data.json").write_text(text)
"""
GRAPH = {"data": [], "train-a": ["data"], "train-b": ["data"], "cost-a": ["train-a"], "cost-b": ["train-b"], "overhead": ["data"]}
GRAPH["tables"] = ["cost-a", "cost-b", "overhead"]
MEET = {"train-a": "train-b", "train-b": "train-a"}


@pytest.fixture
def project(tmp_path):
    shutil.copytree(ROOT / "pipeline", tmp_path / "pipeline", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "pipeline/resolve.py").write_text(RESOLVE)
    (tmp_path / "stage.py").write_text(STAGE)
    (tmp_path / "source").write_text("1")
    (tmp_path / "params.yaml").write_text("profile: small\n")
    stages = {"settings": {"cmd": f"{sys.executable} pipeline/resolve.py", "always_changed": True, "outs": ["runs/${profile}/settings"]}}
    for name, below in GRAPH.items():
        needed = ["source", "runs/${profile}/settings/data.json", *(f"{other}.out" for other in below)]
        stages[name] = {"cmd": f"{sys.executable} stage.py {name} {MEET.get(name, '')}", "deps": needed, "outs": [f"{name}.out"]}
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    for command in (["git", "init", "-q"], [sys.executable, "-m", "dvc", "init", "-q"]):
        subprocess.run(command, cwd=tmp_path, check=True)
    return tmp_path


def reproduce(folder, *options):
    (folder / "calls.log").write_text("")
    command = [sys.executable, "pipeline/reproduce.py", *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    return done, (folder / "calls.log").read_text().splitlines()


def test_stages_run_side_by_side_in_order_and_once(project):
    done, calls = reproduce(project, "--jobs", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert sorted(calls) == sorted(f"{word} {name}" for word in ("begin", "end") for name in GRAPH)
    for name, below in GRAPH.items():
        assert all(calls.index(f"end {other}") < calls.index(f"begin {name}") for other in below)
    assert calls.index("end overhead") == calls.index("begin overhead") + 1, "nothing runs beside a stage that measures time"
    assert "cost-b: Running stage 'cost-b':" in done.stdout

    lock = (project / "dvc.lock").read_text()
    done, calls = reproduce(project)
    assert (done.returncode, calls) == (0, []) and "up to date" in done.stdout
    (project / "dvc.lock").unlink()  # and DVC itself writes the same lock
    for name in ("settings", *GRAPH):
        subprocess.run([sys.executable, "-m", "dvc", "commit", "-f", "-q", name], cwd=project, check=True)
    assert yaml.safe_load((project / "dvc.lock").read_text()) == yaml.safe_load(lock)
    assert sorted((project / "dvc.lock").read_text().splitlines()) == sorted(lock.splitlines())

    (project / "params.yaml").write_text("profile: smoke\n")  # another profile, and back
    assert reproduce(project)[0].returncode == 0 and (project / "results/small/dvc.lock").exists()
    assert "runs/smoke/settings" in (project / "dvc.lock").read_text()
    (project / "params.yaml").write_text("profile: small\n")
    assert reproduce(project)[0].returncode == 0 and (project / "results/smoke/dvc.lock").exists()
    assert "runs/smoke/settings" not in (project / "dvc.lock").read_text()


def test_a_failed_stage_stops_only_what_depends_on_it(project):
    (project / "break-cost-a").touch()
    done, calls = reproduce(project, "--jobs", "2")
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert "cost-a: cost-a is broken" in done.stderr
    assert last.startswith("error: failed: cost-a; not run, because they depend on it: tables -> ")
    assert "end cost-b" in calls and "end overhead" in calls and "begin tables" not in calls
    (project / "break-cost-a").unlink()
    done, calls = reproduce(project, "--jobs", "2")
    assert done.returncode == 0 and calls[-1] == "end tables" and "begin train-a" not in calls, done.stdout + done.stderr


def test_what_is_wrong_before_a_stage_runs_is_one_line(project):
    def fault(*options):
        done, calls = reproduce(project, *options)
        assert done.returncode and not calls and done.stderr.count("\n") == 1, done.stderr
        return done.stderr

    assert "error: --jobs: 0" in fault("--jobs", "0")
    good = (project / "params.yaml").read_text()
    (project / "params.yaml").write_text("bad")
    assert fault() == "error: params.yaml: bad -> good\n"
    (project / "params.yaml").write_text(good)
    (project / "runs").mkdir(exist_ok=True)
    with open(project / "runs/reproduce.pid", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write("123")
        file.flush()
        assert "another reproduce runs in this folder (pid 123) -> wait for it" in fault()
    (project / "dvc.yaml").write_text("stages: 1")
    assert "error: dvc.yaml: " in fault()
    shutil.rmtree(project / ".git")
    assert "has no .git" in fault()
