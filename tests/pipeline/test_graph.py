"""dvc.yaml: what re-runs after an edit. The stages' commands are replaced by a script that writes their outputs and logs its call."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
A, B = "resnet20-cifar10-dbq-1t", "resnet20-cifar10-dbq-2t"

RUNNER = """
import os, pathlib, sys, yaml
words = sys.argv[1:]
stage = os.environ["DVC_STAGE"]
targets = [word.partition("=")[2] for flag, word in zip(words, words[1:]) if flag == "--result"]
targets += [word for flag, word in zip(words, words[1:]) if flag in ("--out", "--html")]
# a result says what it was made from: the entry of the stage in params.yaml
entries = yaml.safe_load(open("params.yaml"))
section = {"quantize": "experiments", "engine": "experiments"}.get(stage.partition("@")[0])
content = stage + str(entries[section][stage.partition("@")[2]] if section else "")
for target in targets:
    path = pathlib.Path(target)
    if target.endswith("/"):
        path.mkdir(parents=True, exist_ok=True)
        path = path / "metrics.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
open("calls.log", "a").write(stage + "\\n")
"""

REPORT = """
import os, pathlib, yaml
profile = yaml.safe_load(open("params.yaml"))["profile"]
for name in ("reports", "metrics"):
    folder = pathlib.Path("results", profile, name)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "index.html").write_text("index")
open("calls.log", "a").write(os.environ["DVC_STAGE"] + "\\n")
"""


class Project:
    def __init__(self, folder: Path):
        self.folder = folder
        for name in ("src", "notebooks", "data/reference"):
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("dvc.yaml", ".dvcignore", ".gitignore"):
            shutil.copy(ROOT / name, folder / name)
        (folder / "pipeline").mkdir()
        (folder / "pipeline" / "run_notebook.py").write_text(RUNNER)
        (folder / "src" / "dbq" / "report" / "__main__.py").write_text(REPORT)
        self.params = yaml.safe_load((ROOT / "params.yaml").read_text())
        self.params["datasets"] = {"cifar10": self.params["datasets"]["cifar10"]}
        floats = ("resnet20-cifar10", self.params["ablation_float"])
        self.params["pretrain"] = {key: self.params["pretrain"][key] for key in floats}
        self.spare = self.params["experiments"]["resnet20-cifar10-dbq-3t"]
        self.params["experiments"] = {key: self.params["experiments"][key] for key in (A, B)}
        self.params["sweeps"] = {}
        self.run("git", "init", "-q")
        self.run(sys.executable, "-m", "dvc", "init", "-q")
        self.run(sys.executable, "-m", "dvc", "config", "core.analytics", "false")

    def run(self, *command):
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, env={**os.environ, "PATH": path})
        assert done.returncode == 0, done.stdout + done.stderr

    def repro(self) -> list[str]:
        """Stages that ran, sorted."""
        log = self.folder / "calls.log"
        log.unlink(missing_ok=True)
        (self.folder / "params.yaml").write_text(yaml.safe_dump(self.params, sort_keys=False))
        self.run(sys.executable, "-m", "dvc", "repro")
        return sorted(log.read_text().split()) if log.exists() else []


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    project = Project(tmp_path_factory.mktemp("project"))
    everything = ["prepare@cifar10", "pretrain@resnet20-cifar10", "pretrain@resnet20-cifar10-float-held-out"]
    everything += [f"{stage}@{key}" for stage in ("quantize", "engine") for key in (A, B)] + ["tables", "report"]
    everything += ["ablations", "hardware", "overhead"]
    assert project.repro() == sorted(everything)
    return project


def test_a_second_run_runs_nothing(project):
    assert project.repro() == []


def test_editing_an_experiment_runs_its_stages_and_the_tables(project):
    project.params["experiments"][A]["activation_bits"] = 6
    assert project.repro() == sorted([f"quantize@{A}", f"engine@{A}", "ablations", "tables", "report"])  # its ablations start from it


def test_adding_an_experiment_in_front_and_reordering_run_nothing_else(project):
    project.params["experiments"] = {"resnet20-cifar10-dbq-3t": dict(project.spare), **project.params["experiments"]}
    added = [f"{stage}@resnet20-cifar10-dbq-3t" for stage in ("quantize", "engine")]
    assert project.repro() == sorted([*added, "tables", "report"])
    project.params["experiments"] = dict(reversed(project.params["experiments"].items()))
    assert set(project.repro()) <= {"tables", "report"}


def test_editing_another_profile_runs_nothing_but_tables(project):
    project.params["schedules"]["finetune"]["paper"]["epochs"] += 1
    project.params["datasets"]["cifar10"]["paper"]["split_seed"] += 1
    assert set(project.repro()) <= {"tables", "report"}


def test_switching_the_profile_and_back_trains_nothing_again(project):
    project.params["profile"] = "cifar10"
    assert f"quantize@{A}" in project.repro()
    project.params["profile"] = "smoke"
    assert set(project.repro()) <= {"tables", "report"}
    project.params["profile"] = "cifar10"
    assert set(project.repro()) <= {"tables", "report"}


def test_a_training_stage_has_no_uncached_output():
    """One `cache: false` would switch the run cache off."""
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    for name in ("prepare", "pretrain", "quantize", "engine"):
        assert all(isinstance(out, str) for out in stages[name]["do"]["outs"])


def test_no_stage_depends_on_an_executed_notebook():
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    for stage in stages.values():
        assert not any(dep.startswith("runs/") and dep.endswith((".ipynb", "notebooks")) for dep in stage.get("do", stage)["deps"])


def test_every_dependency_exists():
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    for stage in stages.values():
        for dep in stage.get("do", stage)["deps"]:
            if "${" not in dep:
                assert (ROOT / dep).exists(), dep
