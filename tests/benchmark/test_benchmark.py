"""The training overhead: how ratios are paired, what a row is, and what is said of what can't be measured. No test depends on a time."""

import dataclasses
import json
import mmap
import statistics
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import nn

from dbq.benchmark import libraries, measure_overhead, memory, overhead, subjects, timing, write
from dbq.errors import DbqError
from dbq.report import overhead_figures
from dbq.settings import policies
from dbq.settings import resolve as config
from dbq.settings.resolve import OverheadSettings


@pytest.fixture(scope="module")
def params():
    return config.read("params.yaml")


@pytest.fixture(scope="module")
def declared(params):
    """The keys that the stage declares, and no others."""
    return {
        "profile": "smoke", "overhead": params["overhead"], "quantizers": params["quantizers"], "policies": params["policies"],
        "activations": params["activations"],
        "datasets": {"cifar10": {"smoke": params["datasets"]["cifar10"]["smoke"]}},
        "schedules": {"finetune": {"smoke": params["schedules"]["finetune"]["smoke"]}},
    }  # fmt: skip


@pytest.fixture(scope="module")
def rows(declared):
    names = ["float", "float-by-input", "dbq-2t", "twn", "torchao-uniform-8"]
    return measure_overhead(declared, "smoke", OverheadSettings(["resnet20"], names, 4, 2, False), log=lambda line: None)


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
    pairs = timing.paired_steps(machine.step("float", 1), {n: machine.step(n, 2) for n in "ab"}, steps=3, clock=machine.clock, warmup=1)
    assert machine.calls == ["float", "a", "float", "b", "float"] * 4
    assert pairs == {name: [(2.0, 1.0)] * 3 for name in "ab"}


def test_a_linear_drift_cancels_in_the_ratios():
    machine = Machine(lambda call: 1.0 + 0.01 * call)
    costs = {"a": 1.1, "b": 1.5, "c": 3.0}
    pairs = timing.paired_steps(
        machine.step("float", 1), {name: machine.step(name, cost) for name, cost in costs.items()}, 20, machine.clock
    )  # fmt: skip
    for name, cost in costs.items():
        assert timing.quartiles(pairs[name]) == pytest.approx((cost,) * 3)


def test_the_warm_up_is_left_out():
    machine = Machine(lambda call: 100.0 if call <= 3 else 1.0)
    pairs = timing.paired_steps(machine.step("float", 1), {"a": machine.step("a", 2)}, steps=5, clock=machine.clock, warmup=1)
    assert pairs["a"] == [(pytest.approx(2.0), pytest.approx(1.0))] * 5


def test_quartiles_are_those_of_the_ratios_not_ratios_of_quartiles():
    pairs = [(2.0, 1.0), (30.0, 10.0), (4.0, 1.0), (50.0, 10.0), (6.0, 1.0)]
    assert timing.quartiles(pairs) == (3.0, 4.0, 5.0)
    assert timing.quartiles(pairs)[1] != statistics.median(p[0] for p in pairs) / statistics.median(p[1] for p in pairs)


def test_every_method_of_the_package_is_among_the_subjects():
    from dbq.settings.quantizers import METHODS

    assert {subject.method for subject in subjects.SUBJECTS.values() if subject.library is None} - {None} == set(METHODS)


@pytest.mark.parametrize("profile", config.PROFILES)
def test_the_committed_settings_name_what_exists(params, profile):
    settings = config.overhead(params, profile)
    subjects.check_names(settings.networks, settings.methods)


def test_an_experiment_has_the_settings_of_its_name(declared):
    entry = subjects.experiment(declared, "smoke", "mobilenet_v1", "lsq-4", 32)
    assert (entry.network, entry.method, entry.activation_bits) == ("mobilenet_v1", "lsq", 32)
    assert entry.quantizer.weight_bits == 4 and entry.quantizer.levels == "full"
    assert dataclasses.asdict(entry.policy) == declared["policies"]["standard"]


def test_by_input_is_a_matter_of_the_activations_alone(declared):
    by_output, by_input = (subjects.experiment(declared, "smoke", "resnet20", name, 8) for name in ("float", "float-by-input"))
    assert (by_input.activations.gradient, by_output.activations.gradient) == ("input", "output")
    assert dataclasses.replace(by_output, key=by_input.key, activations=by_input.activations) == by_input


def test_rows_hold_what_was_asked_for(rows):
    assert [(row["method"], row["activation_bits"]) for row in rows] == [
        ("dbq-2t", 32), ("twn", 32), ("torchao-uniform-8", 32),
        ("float", 8), ("float-by-input", 8), ("dbq-2t", 8), ("twn", 8),
    ]  # fmt: skip
    for row in rows:
        assert list(row) == overhead.COLUMNS
        assert row["memory_ratio"] is None and row["device"] == "cpu" and row["batch_size"] == 4
    assert [row["weight_bits"] for row in rows if row["activation_bits"] == 8] == [32, 32, 4, 2]
    for row in rows:
        if row["status"] == "run":
            assert 0 < row["step_ratio_q1"] <= row["step_ratio_median"] <= row["step_ratio_q3"]
        else:
            assert row["method"] == "torchao-uniform-8" and row["step_ratio_median"] is None


def test_a_network_is_handed_over_as_soon_as_it_is_measured(declared, tmp_path, monkeypatch):
    monkeypatch.setattr(libraries.importlib.util, "find_spec", lambda name: None)  # rows without measurements: quick
    measured = overhead._rows_of

    def stopped_at_the_second(params, profile, network, *others):
        if network == "mobilenet_v1":
            raise KeyboardInterrupt
        return measured(params, profile, network, *others)

    monkeypatch.setattr(overhead, "_rows_of", stopped_at_the_second)
    settings = OverheadSettings(["resnet20", "mobilenet_v1"], ["brevitas-lsq-2"], 4, 2, True)
    with pytest.raises(KeyboardInterrupt):
        measure_overhead(declared, "smoke", settings, log=lambda line: None, done=lambda rows: write(rows, tmp_path))
    assert list(overhead_figures.read(tmp_path).network) == ["resnet20"]


def test_an_absent_library_is_a_row_that_says_so(declared, monkeypatch):
    monkeypatch.setattr(libraries.importlib.util, "find_spec", lambda name: None)
    settings = OverheadSettings(["resnet20"], ["brevitas-lsq-2", "torchao-uniform-8"], 4, 2, True)
    made = measure_overhead(declared, "smoke", settings, log=lambda line: None)
    assert [row["status"] for row in made] == ["not run: not installed (pip install '.[libraries]')"] * 2
    assert all(row[name] is None for row in made for name in (*overhead_figures.RATIOS, "memory_ratio"))


@pytest.mark.skipif(libraries.why_not("brevitas") is not None, reason="Brevitas is an optional library")
def test_brevitas_quantizes_the_layers_that_the_policy_names(declared):
    batch = subjects.random_batch(4, "cpu")
    trained = subjects.trainee("brevitas-lsq-2", subjects.experiment(declared, "smoke", "resnet20", "brevitas-lsq-2", 32), *batch)
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
def test_unknown_and_repeated_names_are_errors(declared, changes, message):
    settings = dataclasses.replace(config.overhead(declared, "smoke"), **changes)
    with pytest.raises(DbqError, match=message):
        measure_overhead(declared, "smoke", settings)


def test_an_unknown_key_is_an_error(declared):
    changed = {**declared, "overhead": {"smoke": {**declared["overhead"]["smoke"], "repeats": 2}}}
    with pytest.raises(DbqError, match=r"overhead\.smoke: unknown key repeats"):
        config.overhead(changed, "smoke")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_an_error(declared):
    with pytest.raises(DbqError, match="device: cuda"):
        measure_overhead(declared, "smoke", device="cuda")


def test_a_step_changes_the_weights_of_every_layer(declared):
    entry = subjects.experiment(declared, "smoke", "resnet20", "dbq-1t", 8)
    trained = subjects.trainee("dbq-1t", entry, *subjects.random_batch(4, "cpu"))
    before = [weight.detach().clone() for _, _, weight in policies.weight_quantizers(trained.network)]
    trained()
    after = [weight for _, _, weight in policies.weight_quantizers(trained.network)]
    assert len(after) == 20 and not any(torch.equal(old, new) for old, new in zip(before, after, strict=True))


@pytest.mark.skipif(not memory.can_measure("cpu"), reason="needs Linux's /proc")
def test_the_peak_is_set_back_and_follows_what_was_held():
    """A larger peak before the reset doesn't count, one after it does, even when it was freed."""

    def hold(size: int) -> None:
        with mmap.mmap(-1, size) as block:  # bytes on the heap would stay with the process, see dbq.training.allocator
            for page in range(0, size, mmap.PAGESIZE):
                block[page] = 1

    held = 64 << 20
    hold(160 << 20)
    memory.RESET.write_text("5")
    before = memory._resident("VmRSS")
    hold(held)
    assert abs(memory._resident("VmHWM") - before - held) < 32 << 20


@pytest.mark.skipif(not memory.can_measure("cpu"), reason="needs Linux's /proc")
def test_the_gradient_by_output_needs_less_memory(declared):
    by_input, by_output = (memory.peak(declared, "smoke", "resnet20", name, 8, 64, "cpu") for name in ("float-by-input", "float"))
    assert by_output < 0.85 * by_input


def test_a_process_that_fails_is_named(declared):
    with pytest.raises(DbqError, match="the memory of dbq-2t on resnet20 was not measured"):
        memory.peak({}, "smoke", "resnet20", "dbq-2t", 8, 4, "cpu")


def test_what_is_written_is_what_the_report_reads(rows, tmp_path):
    write(rows, tmp_path / "overhead")
    summary = json.loads((tmp_path / "overhead" / "metrics.json").read_text())
    assert summary["status"] == "run" and (summary["rows"], summary["measured"], summary["device"]) == (7, 6, "cpu")
    frame = overhead_figures.read(tmp_path / "overhead")
    assert list(frame.method) == [row["method"] for row in rows]
    assert frame.step_ratio_median.isna().sum() == 1
    png = overhead_figures.overhead_bars(frame, smoke=True).bytes("png")
    assert png.startswith(b"\x89PNG") and png == overhead_figures.overhead_bars(frame, smoke=True).bytes("png")


def test_a_damaged_table_is_an_error(rows, tmp_path):
    with pytest.raises(DbqError, match="run `dvc repro overhead`"):
        overhead_figures.read(tmp_path / "overhead")
    for change, message in (
        ({"step_ratio_q1": 9.0}, "no quartiles in ascending order"),
        ({"step_ratio_median": None}, "no quartiles in ascending order"),
        ({"memory_ratio": -1.0}, "memory ratio"),
        ({"status": "not run: because"}, "was not run and has numbers"),
    ):
        write([{**rows[0], **change}], tmp_path / "overhead")
        with pytest.raises(DbqError, match=message):
            overhead_figures.read(tmp_path / "overhead")
    pd.DataFrame({"network": ["resnet20"]}).to_csv(tmp_path / "overhead" / "overhead.csv")
    with pytest.raises(DbqError, match="no column method"):
        overhead_figures.read(tmp_path / "overhead")


def test_the_table_has_the_rows_of_a_gpu_last_and_they_are_whole(rows, tmp_path):
    write(rows, tmp_path / "overhead")
    recorded = Path("data/reference/overhead-gpu.csv")
    (tmp_path / "overhead" / overhead_figures.GPU).write_bytes(recorded.read_bytes())
    frame = overhead_figures.table(tmp_path)
    assert frame.device.tolist() == ["cpu"] * len(rows) + ["NVIDIA H200"] * (len(frame) - len(rows))
    on_gpu = frame[frame.device != "cpu"]
    assert set(on_gpu.method) <= set(subjects.SUBJECTS)
    assert on_gpu.groupby("network").step_ratio_median.count().to_dict() == {"mobilenet_v1": 0, "resnet20": 23}


def test_a_stage_that_was_not_run_gives_an_empty_table_and_a_figure_that_says_so(tmp_path):
    (tmp_path / "overhead").mkdir()
    (tmp_path / "overhead" / "metrics.json").write_text('{"status": "not run", "reason": "no reason"}')
    frame = overhead_figures.table(tmp_path)
    assert frame.empty and list(frame.columns) == overhead.COLUMNS == overhead_figures.COLUMNS
    assert overhead_figures.overhead_bars(frame).bytes("svg")
