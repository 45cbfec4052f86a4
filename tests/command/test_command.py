"""The command line: one line for a fault, and each command calls what it names."""

import json
import subprocess
import sys

import pytest

from dbq.command import app, main
from dbq.command.engine import COMMANDS as ENGINE
from dbq.command.training import COMMANDS as TRAINING

PARAMS = ["--params", "tests/params.yaml"]


def run(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["dbq", *map(str, arguments)])
    status = main()
    out, err = capsys.readouterr()
    return status, out, err


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["train", "net-9t", *PARAMS], "no row 'net-9t' -> did you mean"),
        (["train", "net-twn", *PARAMS, "--profile", "smok"], "no profile 'smok'"),
        (["train", "net-twn", *PARAMS, "--device", "foo"], "device: 'foo' is no device"),
        (["train", "net-twn", *PARAMS, "--seed", "9"], "--seed: 9 is no seed of net-twn -> its seeds are [0]"),
        (["train", "net-twn", *PARAMS, "--data", "nowhere"], "nowhere"),
        (["train", "net-twn", "--params", "tests"], "tests"),
        (["train", "net-twn", *PARAMS, "--minutes", "-3"], "minutes"),
        (["campaign", *PARAMS], "minutes"),
        (["prepare", "mnist", *PARAMS], "no data set 'mnist'"),
        (["cost", "resnet19"], "unknown value 'resnet19'"),
        (["verify", "nowhere.onnx"], "nowhere.onnx"),
        (["fly"], "fly"),
    ],
)
def test_a_fault_is_one_line_and_status_2(monkeypatch, capsys, arguments, names):
    status, _, err = run(monkeypatch, capsys, *arguments)
    assert status == 2
    assert names in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert " -> " in err


def test_check_lists_what_runs_and_why_the_rest_does_not(monkeypatch, capsys):
    status, out, _ = run(monkeypatch, capsys, "check", *PARAMS)
    assert status == 0
    assert "net-dbq-2t" in out and "seeds [0, 1]" in out
    assert "left out: profiles.tiny.rows gives it no seed" in out


def test_check_tells_all_faults(monkeypatch, capsys, tmp_path):
    from dbq import settings

    params = settings.read("tests/params.yaml")
    params["rows"]["net-twn"]["policy"] = "lax"
    params["overhead"]["steps"] = 0
    (tmp_path / "params.json").write_text(json.dumps(params))
    status, _, err = run(monkeypatch, capsys, "check", "--params", tmp_path / "params.json")
    assert status == 2
    assert err.count("error: ") == err.count("\n") == 2


def test_cost_prints_the_published_multiply_adds(monkeypatch, capsys):
    status, out, _ = run(monkeypatch, capsys, "cost", "mobilenet_v1", "--form", "224x224")
    assert status == 0
    assert "568,740,352 multiply-adds" in out.splitlines()[-1]


def test_hardware_prints_verilog(monkeypatch, capsys):
    status, out, _ = run(monkeypatch, capsys, "hardware", "9", "--branches", "2")
    assert status == 0
    assert "endmodule" in out


def test_every_command_explains_itself():
    done = subprocess.run([sys.executable, "-m", "dbq", "--help"], capture_output=True, text=True, env={"PYTHONPATH": "src", "PATH": ""})
    assert done.returncode == 0
    for command in (*TRAINING, *ENGINE):
        assert command.__name__ in done.stdout
        assert command.__doc__
    assert len(app.registered_commands) == len(TRAINING) + len(ENGINE)
