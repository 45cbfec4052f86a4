"""Stages side by side: in order, in parallel, alone where they measure time, and one clear end when one fails."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from reproduce import chains, needed

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
GRAPH = {"data": [], "train-a": ["data"], "train-b": ["data"], "cost-a": ["train-a"], "cost-b": ["train-b"], "overhead": ["data"]}
GRAPH["tables"] = ["cost-a", "cost-b", "overhead"]
MEET = {"train-a": "train-b", "train-b": "train-a"}


@pytest.fixture
def project(tmp_path):
    (tmp_path / "pipeline").mkdir()
    shutil.copy(ROOT / "pipeline" / "reproduce.py", tmp_path / "pipeline")
    (tmp_path / "stage.py").write_text(STAGE)
    (tmp_path / "source").write_text("1")
    stages = {
        name: {
            "cmd": f"{sys.executable} stage.py {name} {MEET.get(name, '')}",
            "deps": ["source", *(f"{other}.out" for other in below)],
            "outs": [f"{name}.out"],
        }
        for name, below in GRAPH.items()
    }
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    for command in (["git", "init", "-q"], [sys.executable, "-m", "dvc", "init", "-q"]):
        subprocess.run(command, cwd=tmp_path, check=True)
    return tmp_path


def reproduce(folder, *options):
    (folder / "calls.log").write_text("")
    command = [sys.executable, "pipeline/reproduce.py", *options]
    done = subprocess.run(command, cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT / "src")}, capture_output=True, text=True)
    return done, (folder / "calls.log").read_text().splitlines()


def test_stages_run_side_by_side_in_order_and_once(project):
    done, calls = reproduce(project, "--jobs", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert sorted(calls) == sorted(f"{word} {name}" for word in ("begin", "end") for name in GRAPH)
    for name, below in GRAPH.items():
        assert all(calls.index(f"end {other}") < calls.index(f"begin {name}") for other in below)
    assert calls.index("end overhead") == calls.index("begin overhead") + 1, "nothing runs beside a stage that measures time"
    assert "cost-b: Running stage 'cost-b':" in done.stdout

    done, calls = reproduce(project)
    assert (done.returncode, calls) == (0, []) and "up to date" in done.stdout

    (project / "source").write_text("2")
    (project / "train-a.out").unlink()  # an interrupted run's missing output
    done, calls = reproduce(project, "--jobs", "2")
    assert done.returncode == 0 and len(calls) == 2 * len(GRAPH), done.stdout + done.stderr


def test_a_failed_stage_is_named_and_the_rest_can_go_on_later(project):
    (project / "break-cost-a").touch()
    done, calls = reproduce(project, "--jobs", "2")
    assert done.returncode != 0
    assert "cost-a is broken" in done.stderr and done.stderr.splitlines()[-1].startswith("error: failed: cost-a -> ")
    assert "begin tables" not in calls and "end train-a" in calls
    (project / "break-cost-a").unlink()
    done, calls = reproduce(project, "--jobs", "2")
    assert done.returncode == 0 and "begin train-a" not in calls and "end tables" in calls, done.stdout + done.stderr


def test_bad_input_is_one_error(project):
    assert "error: --jobs: 0" in reproduce(project, "--jobs", "0")[0].stderr
    (project / "dvc.yaml").write_text("stages: 1")
    done, _ = reproduce(project)
    assert done.returncode != 0 and "error: dvc.yaml: " in done.stderr and "Traceback" not in done.stderr


def test_chains_hold_what_only_follows_on_one_another():
    needs = {name: set(below) for name, below in GRAPH.items()}
    needs["cost-a"].add("data")  # which it depends on through train-a anyway
    assert chains(needs) == [["data"], ["train-a", "cost-a"], ["train-b", "cost-b"]]
    assert needed(["train-a", "cost-a"], needs) == {"data"}
