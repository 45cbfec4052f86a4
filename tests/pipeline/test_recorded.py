"""Recorded results: a stage takes them from results/ as they are, or stops."""

import copy
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from dbq import config
from dbq.errors import DbqError
from dbq.files import write_json, write_text

ROOT = Path(__file__).parents[2]
KEY = "resnet20-cifar10-dbq-1t"


def pipeline(folder, script, *arguments):
    variables = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, str(ROOT / "pipeline" / script), *arguments]
    return subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, timeout=60)


def stage(folder, name):
    results = ["--result", f"metrics=runs/smoke/metrics/{name}/{KEY}/"]
    if name == "quantize":
        results += ["--result", f"model=runs/smoke/models/quantize-{KEY}.pt"]
    pages = ["--out", f"runs/smoke/notebooks/{name}-{KEY}.ipynb", "--html", f"runs/smoke/html/{name}-{KEY}.html"]
    inputs = {"quantize": {"data": "d", "float_model": "f"}, "engine": {"data": "d", "model": "m", "hardware": "h"}}[name]
    for word, value in inputs.items():
        results += ["--set", f"{word}={value}"]
    run_in = f"experiments.{KEY}.seeds.smoke"
    return pipeline(folder, "run_notebook.py", f"notebooks/{name}.ipynb", "--key", KEY, *pages, "--run-in", run_in, *results)


@pytest.fixture
def folder(tmp_path):
    """A project whose results of one experiment are there, and its stages' models and notebooks are not."""
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    shutil.copytree(ROOT / "notebooks", tmp_path / "notebooks")
    settings = config.settings_of(config.experiment(params, "smoke", KEY))
    metrics = {"key": KEY, "seeds": [0], "settings": settings, "status": "run"}
    write_json(tmp_path / f"results/smoke/metrics/quantize/{KEY}/metrics.json", metrics)
    write_text(tmp_path / f"results/smoke/metrics/quantize/{KEY}/history.csv", "seed\n0\n")
    write_json(tmp_path / f"results/smoke/metrics/engine/{KEY}/cost.json", {"key": KEY})
    for name in ("quantize", "engine"):
        write_text(tmp_path / f"results/smoke/reports/{name}-{KEY}.html", f"page of {name}")
        write_text(tmp_path / f"results/smoke/reports/{name}-{KEY}.ipynb", "{}")
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    line = pipeline(tmp_path, "recorded.py", "smoke", KEY)
    assert line.returncode == 0, line.stderr
    digest = line.stdout.split("{recorded: ")[1].split("}")[0]
    params["experiments"][KEY]["seeds"]["smoke"] = {"recorded": digest}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    return tmp_path


def test_stages_copy_what_is_recorded_and_say_that_there_is_no_model(folder):
    for name in ("quantize", "engine"):
        done = stage(folder, name)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("recorded: ")
        assert (folder / f"runs/smoke/html/{name}-{KEY}.html").read_text() == f"page of {name}"
    for file in ("quantize/%s/history.csv", "quantize/%s/metrics.json", "engine/%s/cost.json"):
        path = file % KEY
        assert (folder / "runs/smoke/metrics" / path).read_bytes() == (folder / "results/smoke/metrics" / path).read_bytes()
    assert json.loads((folder / f"runs/smoke/models/quantize-{KEY}.pt").read_text())["status"] == "not run"


def test_a_changed_record_and_changed_settings_stop_the_stage(folder):
    history = folder / f"results/smoke/metrics/quantize/{KEY}/history.csv"
    history.write_text("seed\n1\n")
    done = stage(folder, "quantize")
    assert done.returncode == 2
    assert f"experiments.{KEY}.seeds.smoke: recorded" in done.stderr
    history.write_text("seed\n0\n")
    assert stage(folder, "quantize").returncode == 0
    params = yaml.safe_load((folder / "params.yaml").read_text())
    params["experiments"][KEY]["quantizer"]["temperature"]["start"] = 4.0
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    done = stage(folder, "quantize")
    assert done.returncode == 2
    assert "measured with other settings" in done.stderr
    assert "measured with other settings" in pipeline(folder, "recorded.py", "smoke", KEY).stderr


def test_a_missing_record_names_the_remedy(folder):
    shutil.rmtree(folder / "results")
    done = stage(folder, "quantize")
    assert done.returncode == 2
    assert "no recorded result -> run it once with seeds, or `git checkout results/smoke`" in done.stderr


def test_a_float_network_can_be_recorded_when_nothing_is_trained_from_it(folder):
    network = "mobilenet_v1-vww"
    params = yaml.safe_load((folder / "params.yaml").read_text())
    entry = config.pretrain(params, "smoke", network)
    metrics = {"key": network, "seeds": [0], "settings": config.settings_of(entry), "status": "run"}
    write_json(folder / f"results/smoke/metrics/pretrain/{network}/metrics.json", metrics)
    line = pipeline(folder, "recorded.py", "smoke", network)
    assert line.stdout.startswith(f"pretrain.{network}: smoke: {{recorded: ")
    params["pretrain"][network]["seeds"]["smoke"] = {"recorded": line.stdout.split("{recorded: ")[1].split("}")[0]}
    with pytest.raises(DbqError, match=rf"experiments\.{network}-dbq-1t\.seeds: smoke has no float network {network}"):
        config.check(params)
    del params["experiments"][f"{network}-dbq-1t"]["seeds"]["smoke"]
    config.check(params)


def test_a_float_network_has_one_seed():
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["pretrain"]["resnet20-cifar10"]["seeds"]["smoke"] = [0, 1]
    with pytest.raises(DbqError, match=r"pretrain\.resnet20-cifar10\.seeds\.smoke: \[0, 1\] -> give one"):
        config.check(params)


def test_recorded_entries_are_neither_trained_nor_refused(folder):
    from dbq import campaign

    params = yaml.safe_load((folder / "params.yaml").read_text())
    config.check(params)
    assert KEY not in [task.key for task in campaign.plan(params, "smoke")]
    trained = copy.deepcopy(params)
    trained["experiments"][KEY]["seeds"]["smoke"] = [0]
    assert KEY in [task.key for task in campaign.plan(trained, "smoke")]
