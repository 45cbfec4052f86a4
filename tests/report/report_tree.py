"""A small profile: its params.yaml as a mapping, its plan, and the result files that its stages would leave."""

import copy

import numpy as np

from dbq import settings
from dbq.files import write_csv, write_json
from dbq.report import overhead_figures
from dbq.report.results import COSTS, HISTORY_COLUMNS, LAYER_COLUMNS

READINGS = [("adder_only", False), ("adder_only", True), ("two_bit_multiplier", False), ("signed_digits", False)]
DBQ = "resnet20-cifar10-dbq-2t"
NOT_RUN = "resnet20-cifar10-dbq-3t"
REASON = "profiles.smoke.rows gives it no seed"
BASE = settings.read("tests/params.yaml")
DIGITS = {"source": "digits", "classes": 10, "split_seed": 0}
PARAMS = BASE | {
    "profile": "smoke",
    "profiles": {
        "smoke": {
            "datasets": {"cifar10": DIGITS, "vww": DIGITS},
            "schedules": {"base": {"epochs": 4}},
            "rows": {DBQ: 3, NOT_RUN: 0, "2t-temp-6": 2, "*": 1},
        },
        "none": {"extends": "smoke", "rows": {"*": 0}},
        "real": {"extends": "smoke", "datasets": {"cifar10": DIGITS | {"source": "visual_wake_words"}}},
    },
    "starts": {
        "resnet20-cifar10": {"network": "resnet20", "dataset": "cifar10"},
        "held-out": {"network": "resnet20", "dataset": "cifar10", "seed": 1},
        "mobilenet_v1-vww": {"network": "mobilenet_v1", "dataset": "vww"},
    },
    "quantizers": BASE["quantizers"] | {
        "dbq-3t": {"extends": "dbq-2t", "branches": 3},
        "uniform-8": {"method": "uniform", "policy": "standard", "bits": 8},
    },
    "rows": {
        "resnet20-cifar10-uniform-8": {"start": "resnet20-cifar10"},
        DBQ: {"start": "resnet20-cifar10"},
        NOT_RUN: {"start": "resnet20-cifar10"},
        "mobilenet_v1-vww-dbq-1t": {"start": "mobilenet_v1-vww"},
        "2t": {"start": "held-out", "quantizer": "dbq-2t", "judged": "validation"},
        "2t-temp-6": {"extends": "2t", "start": "held-out", "quantizer": {"temperature": 6.0}, "schedule": {"learning_rate": 0.05}},
    },
}  # fmt: skip


def plan(profile="smoke", **sections):
    """The plan of PARAMS; sections: top-level keys of params.yaml in the place of those of PARAMS."""
    return settings.plan({**copy.deepcopy(PARAMS), **sections}, profile)


def runs(folder, planned, top1=None):
    """Write folder/STAGE/KEY of everything that the plan runs; top1: key -> percent per seed. Returns the folder."""
    rng = np.random.default_rng(0)
    for name in planned.datasets:
        counts = {split: {"total": total} for split, total in (("train", 1200), ("val", 200), ("test", 397))}
        write_json(folder / "prepare" / name / "manifest.json", {"source": "digits", "label": "stand-in", "classes": 10, "counts": counts})
    for stage, section in (("pretrain", planned.starts), ("quantize", planned.rows)):
        for key, entry in section.items():
            if entry.reason is None:
                seeds = [entry.settings.seed] if stage == "pretrain" else entry.settings.seeds
                values = (top1 or {}).get(key) or [round(float(value), 2) for value in rng.uniform(80, 95, len(seeds))]
                _training(folder / stage / key, entry.settings, seeds, values, rng)
                if stage == "quantize" and entry.settings.judged == "test":
                    _engine(folder / "engine" / key, key, rng)
    rows = [
        ["resnet20", "float", 0, 32, 32, 128, 12, 1.0, 1.0, 1.0, 1.0, "cpu", 2, "2.13.0", "run"],
        ["resnet20", "dbq-2t", 2, 4, 8, 128, 12, 1.07, 1.05, 1.1, 1.02, "cpu", 2, "2.13.0", "run"],
        ["resnet20", "brevitas", 0, 4, 8, 128, "", "", "", "", "", "cpu", 2, "2.13.0", "not run: not installed"],
    ]
    for name in ("overhead.csv", "gpu.csv"):
        _write_csv(folder / "overhead" / name, rows, overhead_figures.COLUMNS)
    write_json(folder / "overhead" / "metrics.json", {"status": "run"})
    return folder


def _write_csv(path, rows, columns):
    write_csv(path, [dict(zip(columns, row, strict=True)) for row in rows], columns)


def _training(folder, entry, seeds, top1, rng):
    branches, quantized, judged = getattr(entry, "branches", 0), hasattr(entry, "method"), getattr(entry, "judged", "test")
    identity = {"settings": "5" * 64, "data": "d" * 64, "code": "c" * 64, "start": "a" * 64 if quantized else None}
    results = [
        {
            "seed": seed, "top1": value if judged == "test" else None, "val_top1": value - 1, "zero_rate": 0.1 * branches,
            "soft_hard_gap": 0.1 if branches else None, "commit": f"{seed}" * 40, "device": "cpu (1 thread)", "torch": "2.13.0",
            "identity": identity,
        }
        for seed, value in zip(seeds, top1, strict=True)
    ]  # fmt: skip
    write_json(folder / "metrics.json", {
        "status": "run", "key": entry.key, "profile": entry.profile, "network": entry.network, "dataset": entry.dataset,
        "method": getattr(entry, "method", "float"), "branches": branches, "weight_bits": getattr(entry, "weight_bits", 32),
        "activation_bits": 8 if quantized else 32, "epochs": entry.training.epochs, "judged": judged, "label": "SMOKE: not evidence",
        "data_source": "digits", "weights_source": None if quantized else "trained here", "seeds": results,
    })  # fmt: skip
    temperature, gap = (12.0, 0.1) if branches else ("", "")
    epochs = [(seed, epoch, rng.uniform(0.1, 2)) for seed in seeds for epoch in range(1, 5)]
    rows = [[seed, epoch, 0.02, temperature, loss, 95 - 30 * loss, 93 - 30 * loss, gap] for seed, epoch, loss in epochs]
    _write_csv(folder / "history.csv", rows, HISTORY_COLUMNS)
    if quantized:
        levels = np.linspace(-1, 1, 3**branches)
        layer = {"edges": [-2, 0, 2], "counts": [5, 7], "levels": levels.tolist(), "thresholds": (levels[1:] - 0.1).tolist()}
        layer["level_counts"] = rng.integers(1, 100, len(levels)).tolist()
        layers = [layer | {"name": f"layer1.{index}.conv1"} for index in range(5)]
        write_json(folder / "weights.json", {"layers": layers if branches else []})
        curves = [{"epoch": i, "temperature": t, "outputs": [-1, 0, 1]} for i, t in enumerate((5.0, 20.0, 80.0))]
        annealing = {"layer": "layer1.0.conv1", "inputs": [-1, 0, 1], "curves": curves, "hard": [-1, 1, 1]}
        write_json(folder / "annealing.json", annealing if branches else {})


def _engine(folder, key, rng):
    rows = []
    for index in range(5):
        size, kind = int(rng.uniform(1e6, 2e7)), ("first", "depthwise", "other")[index % 3]
        rows.append([f"layer1.{index}.conv1", kind, *(size // part for part in (1, 2, 9, 30, 80, 40))])
    _write_csv(folder / "layers.csv", rows, LAYER_COLUMNS)
    write_json(folder / "engine.json", {
        "images": 397, "top1_engine": 90.0, "disagreeing": 1, "disagreeing_float64": 0, "unexplained": 0, "smallest_width": 8,
    })  # fmt: skip
    readings = []
    for number, (reading, bias) in enumerate(READINGS):
        totals = {name: sum(row[2 + place] for row in rows) + number for place, name in enumerate(COSTS)}
        readings.append({"reading": reading, "count_bias": bias, "main": number == 0, **totals})
    write_json(folder / "cost.json", {"status": "run", "key": key, "readings": readings, "macs": 40_000_000})
