"""The training overhead: how ratios are paired, what a row is, and what is said of what can't be measured. No test depends on a time."""

import json
import statistics
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from dbq import benchmark
from dbq.benchmark import measure, subjects
from dbq.errors import DbqError
from dbq.insertion import policies
from dbq.settings.entries import OVERHEAD_METHODS
from dbq.settings.quantizers import METHODS


def settings(**changes):
    values = {"networks": ["resnet20"], "methods": ["twn"], "batch_size": 4, "steps": 2, "memory": False}
    return SimpleNamespace(**{**values, **changes})


def overhead(log=lambda line: None, **changes):
    return benchmark.overhead(settings(**changes), log=log)


@pytest.fixture(scope="module")
def rows():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subjects.importlib.util, "find_spec", lambda name: None)
        return overhead(methods=["float", "float-by-input", "dbq-2t", "twn", "brevitas-lsq-2"])


class Machine:
    """A clock that steps move: a step of cost c takes c times the machine's present slowness."""

    def __init__(self, slowness):
        self.now, self.slowness, self.calls = 0.0, slowness, []

    def clock(self) -> float:
        return self.now

    def step(self, name: str, cost: float):
        def run():
            self.calls.append(name)
            self.now += cost * self.slowness(len(self.calls))

        return run


def test_every_step_has_a_float_step_on_either_side():
    machine = Machine(lambda call: 1.0)
    pairs = measure.paired_steps(machine.step("float", 1), {n: machine.step(n, 2) for n in "ab"}, steps=3, clock=machine.clock, warmup=1)
    assert machine.calls == ["float", "a", "float", "b", "float"] * 4
    assert pairs == {name: [(2.0, 1.0)] * 3 for name in "ab"}


def test_a_linear_drift_cancels_in_the_ratios():
    machine = Machine(lambda call: 1.0 + 0.01 * call)
    costs = {"a": 1.1, "b": 1.5, "c": 3.0}
    pairs = measure.paired_steps(
        machine.step("float", 1), {name: machine.step(name, cost) for name, cost in costs.items()}, 20, machine.clock
    )  # fmt: skip
    for name, cost in costs.items():
        assert measure.quartiles(pairs[name]) == pytest.approx((cost,) * 3)


def test_the_warm_up_is_left_out():
    machine = Machine(lambda call: 100.0 if call <= 3 else 1.0)
    pairs = measure.paired_steps(machine.step("float", 1), {"a": machine.step("a", 2)}, steps=5, clock=machine.clock, warmup=1)
    assert pairs["a"] == [(pytest.approx(2.0), pytest.approx(1.0))] * 5


def test_quartiles_are_those_of_the_ratios_not_ratios_of_quartiles():
    pairs = [(2.0, 1.0), (30.0, 10.0), (4.0, 1.0), (50.0, 10.0), (6.0, 1.0)]
    assert measure.quartiles(pairs) == (3.0, 4.0, 5.0)
    assert measure.quartiles(pairs)[1] != statistics.median(p[0] for p in pairs) / statistics.median(p[1] for p in pairs)


def test_the_subjects_are_those_of_the_settings_and_every_method_is_among_them():
    assert tuple(subjects.SUBJECTS) == OVERHEAD_METHODS
    own = [subject for subject in subjects.SUBJECTS.values() if subject.library is None and subject.quantizer is not None]
    assert {subject.method for subject in own} == set(METHODS)
    for subject in own:
        assert type(subject.quantizer) is METHODS[subject.method]


def test_a_row_has_the_settings_of_its_name():
    row = subjects.row("mobilenet_v1", "lsq-4", 32)
    assert (row.network, row.method, row.activation_bits, row.weight_bits) == ("mobilenet_v1", "lsq", 32, 4)
    assert row.quantizer.levels == "full" and row.training.kernels == "eager"
    compiled = subjects.row("resnet20", "dbq-3t-compiled", 8)
    assert (compiled.branches, compiled.weight_bits, compiled.training.kernels) == (3, 6, "compiled")


def test_by_input_is_a_matter_of_the_activations_alone():
    by_output, by_input = (subjects.row("resnet20", name, 8) for name in ("float", "float-by-input"))
    assert (by_input.activations.gradient, by_output.activations.gradient) == ("input", "output")
    assert by_output.model_copy(update={"key": by_input.key, "activations": by_input.activations}) == by_input


def test_rows_hold_what_was_asked_for(rows):
    assert [(row["method"], row["activation_bits"]) for row in rows] == [
        ("dbq-2t", 32), ("twn", 32), ("brevitas-lsq-2", 32),
        ("float", 8), ("float-by-input", 8), ("dbq-2t", 8), ("twn", 8),
    ]  # fmt: skip
    for row in rows:
        assert list(row) == benchmark.COLUMNS
        assert row["memory_ratio"] is None and row["device"] == "cpu" and row["batch_size"] == 4
    assert [row["weight_bits"] for row in rows if row["activation_bits"] == 8] == [32, 32, 4, 2]
    for row in rows:
        if row["status"] == "run":
            assert 0 < row["step_ratio_q1"] <= row["step_ratio_median"] <= row["step_ratio_q3"]
        else:
            assert row["method"] == "brevitas-lsq-2" and row["step_ratio_median"] is None


def test_a_network_is_handed_over_as_soon_as_it_is_measured(monkeypatch):
    monkeypatch.setattr(subjects.importlib.util, "find_spec", lambda name: None)  # rows without measurements: quick
    seen = []
    asked = settings(networks=["resnet20", "mobilenet_v1"], methods=["brevitas-lsq-2"])
    benchmark.overhead(asked, log=lambda line: None, done=lambda rows: seen.append([row["network"] for row in rows]))
    assert seen == [["resnet20"], ["resnet20", "mobilenet_v1"]]


def test_an_absent_library_is_a_row_that_says_so(rows):
    (absent,) = [row for row in rows if row["method"] == "brevitas-lsq-2"]
    assert absent["status"] == "not run: not installed (pip install '.[libraries]')"
    assert all(absent[name] is None for name in ("step_ratio_q1", "step_ratio_median", "step_ratio_q3", "memory_ratio"))


def test_compiled_kernels_without_a_compiler_are_a_row_that_says_so(monkeypatch):
    monkeypatch.setattr(subjects.compiled, "why_not", lambda device: "no C++ compiler (g++)")
    assert [row["status"] for row in overhead(methods=["dbq-2t-compiled"])] == ["not run: no C++ compiler (g++)"] * 2


@pytest.mark.skipif(subjects.why_not("brevitas-lsq-2", "cpu") is not None, reason="Brevitas is an optional library")
def test_brevitas_quantizes_the_layers_that_the_policy_names():
    batch = subjects.random_batch(4, "cpu")
    trained = subjects.trainee("brevitas-lsq-2", subjects.row("resnet20", "brevitas-lsq-2", 32), *batch)
    trained()
    layers = [module for module in trained.network.modules() if isinstance(module, (nn.Conv2d, nn.Linear))]
    values = [len(layer.quant_weight().value.unique()) for layer in layers]
    assert values[0] > 3 and values[-1] > 3 and set(values[1:-1]) == {3}  # 8 bits in the first layer and the classifier


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"networks": ["resnet19"]}, r"overhead\.networks.*'resnet19'.*resnet20"),
        ({"methods": ["dbq-4t"]}, r"overhead\.methods.*'dbq-4t'.*dbq-3t"),
        ({"methods": []}, r"overhead\.methods"),
        ({"methods": ["twn", "twn"]}, r"overhead\.methods.*each once"),
    ],
)
def test_unknown_and_repeated_names_are_errors(changes, message):
    with pytest.raises(DbqError, match=message):
        overhead(**changes)


def test_all_stands_for_every_method():
    assert subjects.names(["resnet20"], "all") == list(subjects.SUBJECTS)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_an_error():
    with pytest.raises(DbqError, match="device: cuda"):
        benchmark.overhead(settings(), device="cuda")


def test_the_step_of_rows_beside_the_float_network_of_the_first():
    rows = [subjects.row("resnet20", name, 8) for name in ("dbq-1t", "uniform-8")]
    found = benchmark.step(rows, batch_size=4, steps=2)
    assert [one["key"] for one in found] == ["float", "resnet20-dbq-1t", "resnet20-uniform-8"]
    assert found[0]["ratio"] == 1.0 and all(one["ratio"] > 0 and one["milliseconds"] > 0 for one in found)
    with pytest.raises(DbqError, match="rows of 2 networks"):
        benchmark.step([rows[0], subjects.row("mobilenet_v1", "dbq-1t", 8)])


def test_a_step_changes_the_weights_of_every_layer():
    trained = subjects.trainee("dbq-1t", subjects.row("resnet20", "dbq-1t", 8), *subjects.random_batch(4, "cpu"))
    before = [weight.detach().clone() for _, _, weight in policies.weight_quantizers(trained.network)]
    trained()
    after = [weight for _, _, weight in policies.weight_quantizers(trained.network)]
    assert len(after) == 20 and not any(torch.equal(old, new) for old, new in zip(before, after, strict=True))


def test_the_peak_is_that_of_the_tensors_of_a_step():
    """Of 40 and 24 MiB at once, the first freed before 8 more: the peak is 64. What is held before the steps doesn't count."""
    held = [torch.empty(100 << 20, dtype=torch.uint8)]

    def step() -> None:
        first, second = torch.empty(40 << 20, dtype=torch.uint8), torch.empty(24 << 20, dtype=torch.uint8)
        del first
        held.append(torch.empty(8 << 20, dtype=torch.uint8) + second[: 8 << 20])
        held.pop()

    assert measure.peak_memory(step) == 64 << 20


def test_the_gradient_by_output_needs_less_memory():
    found = {row["method"]: row["memory_ratio"] for row in overhead(methods=["float-by-input", "float"], batch_size=16, memory=True)}
    assert 1.0 < found["float"] < 0.85 * found["float-by-input"]


def test_what_is_written(rows, tmp_path):
    benchmark.write(rows, tmp_path)
    summary = json.loads((tmp_path / "metrics.json").read_text())
    assert summary["status"] == "run" and (summary["rows"], summary["measured"], summary["device"]) == (7, 6, "cpu")
    header, *lines = (tmp_path / "overhead.csv").read_text().splitlines()
    assert header.split(",") == benchmark.COLUMNS
    assert [line.split(",")[1] for line in lines] == [row["method"] for row in rows]
