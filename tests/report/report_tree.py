"""Small synthetic result trees, in the form that the stages write."""

import numpy as np

from dbq.files import write_csv, write_json

HISTORY = ["seed", "epoch", "learning_rate", "temperature", "train_loss", "train_top1", "val_top1", "soft_hard_gap"]
LAYERS = ["layer", "kind", "c_c", "c_s", "c_r", "c_m", "nonzeros", "weights"]
READINGS = [("adder_only", False), ("adder_only", True), ("two_bit_multiplier", False), ("two_bit_multiplier", True)]


def experiment(network, dataset, method, branches=2, seeds=(0,), profiles=("smoke",)):
    quantizer = {"branches": branches} if method == "dbq" else {"bits": 8}
    return {
        "network": network, "dataset": dataset, "method": method, "activation_bits": 8, "policy": "standard", "schedule": "finetune",
        "seeds": {profile: list(seeds) for profile in profiles}, "quantizer": quantizer, "training": {},
    }  # fmt: skip


def params(profile="smoke"):
    """Two data sets, two float networks, four experiments, one of which runs in no profile that is tested."""
    pretrain = {
        key: {
            "network": key.split("-")[0],
            "dataset": key.split("-")[1],
            "schedule": "float",
            "seeds": {profile: [0]},
            "weights": {},
        }
        for key in ("resnet20-cifar10", "mobilenet_v1-vww")
    }
    experiments = {
        "resnet20-cifar10-uniform-8": experiment("resnet20", "cifar10", "uniform"),
        "resnet20-cifar10-dbq-2t": experiment("resnet20", "cifar10", "dbq", seeds=(0, 1, 2)),
        "mobilenet_v1-vww-dbq-1t": experiment("mobilenet_v1", "vww", "dbq", branches=1),
        "mobilenet_v1-vww-dbq-3t": experiment("mobilenet_v1", "vww", "dbq", branches=3, profiles=("paper",)),
    }
    stand_in = {"source": "digits", "stand_in": True}
    return {
        "profile": profile,
        "datasets": {
            name: {"smoke": stand_in, "cifar10": {"source": name, "stand_in": False}, "paper": None} for name in ("cifar10", "vww")
        },
        "pretrain": pretrain,
        "experiments": experiments,
        "sweep_rows": {},
        "sweeps": {},
        "cost": {"reading": "adder_only", "count_bias": False, "scale_bits": 8},
    }


def runs(folder, tree, top1=None, layers=5, epochs=4, not_run=("mobilenet_v1-vww-dbq-3t",)):
    """Write folder/metrics for everything that `tree` declares; top1: key -> percent per seed."""
    rng = np.random.default_rng(0)
    metrics = folder / "metrics"
    for name in tree["datasets"]:
        counts = {split: {"total": total, "per_class": []} for split, total in (("train", 1200), ("val", 200), ("test", 397))}
        write_json(metrics / "prepare" / name / "manifest.json", {
            "name": name, "profile": tree["profile"], "source": "digits", "label": "stand-in (digits)", "md5_identical": None,
            "counts": counts, "classes": 10, "image_size": 8, "licence": "CC BY 4.0",
        })  # fmt: skip
    for stage, section in (("pretrain", "pretrain"), ("quantize", "experiments")):
        for key, entry in tree[section].items():
            if key in not_run:
                for stopped in ("quantize", "engine"):
                    write_json(metrics / stopped / key / "metrics.json", {"status": "not run", "reason": "its profiles are paper"})
                continue
            seeds = entry["seeds"][tree["profile"]]
            values = (top1 or {}).get(key) or [round(float(value), 4) for value in rng.uniform(80, 95, len(seeds))]
            _training(metrics / stage / key, key, entry, stage, seeds, values, epochs, layers, rng)
            if stage == "quantize":
                _engine(metrics / "engine" / key, key, entry, layers, rng)
    ablations(metrics)
    overhead(metrics)
    return metrics


def ablations(metrics):
    base = {"base": "resnet20-cifar10-dbq-2t", "branches": 2}
    run = {
        "n": 1,
        "epochs": 2,
        "soft_hard_gap": [0.05],
        "zero_rate": [0.4],
        "device": "cpu (1 thread)",
        "data_source": "digits",
        "label": "SMOKE",
    }
    rows = [
        {**base, **run, "key": "2t-base", "change": "as the experiment", "val_top1": [90.0], "delta_to_base": 0.0},
        {
            **base,
            **run,
            "key": "2t-temperature-6",
            "change": "temperature 6",
            "n": 2,
            "val_top1": [91.0, 92.0],
            "soft_hard_gap": [0.1, 0.2],
            "zero_rate": [0.4, 0.5],
            "delta_to_base": 1.5,
        },
        {**base, "key": "2t-per-channel", "change": "scales channel", "n": 0, "label": "not run: its profiles are paper"},
    ]
    write_json(metrics / "ablations" / "metrics.json", {"status": "run", "rows": rows})


OVERHEAD = [
    "network", "method", "branches", "weight_bits", "activation_bits", "batch_size", "steps", "step_ratio_median", "step_ratio_q1",
    "step_ratio_q3", "memory_ratio", "device", "threads", "torch", "status",
]  # fmt: skip


def overhead(metrics):
    rows = [
        ["resnet20", "float", 0, 32, 32, 128, 12, 1.0, 1.0, 1.0, 1.0, "cpu", 2, "2.13.0", "run"],
        ["resnet20", "dbq", 2, 4, 8, 128, 12, 1.07, 1.05, 1.1, 1.02, "cpu", 2, "2.13.0", "run"],
        ["resnet20", "brevitas", 0, 4, 8, 128, "", "", "", "", "", "cpu", 2, "2.13.0", "not run: not installed"],
    ]
    write_csv(metrics / "overhead" / "overhead.csv", [dict(zip(OVERHEAD, row, strict=True)) for row in rows], OVERHEAD)
    gpu = [dict(zip(OVERHEAD, row, strict=True)) | {"device": "NVIDIA H200"} for row in rows]
    write_csv(metrics / "overhead" / "gpu.csv", gpu, OVERHEAD)
    write_json(metrics / "overhead" / "metrics.json", {"status": "run", "rows": 3, "device": "cpu"})


def _branches(entry):
    return entry["quantizer"]["branches"] if entry.get("method") == "dbq" else 0


def _training(folder, key, entry, stage, seeds, top1, epochs, layers, rng):
    quantized, branches = stage == "quantize", _branches(entry) if stage == "quantize" else 0
    value = {
        "status": "run", "key": key, "network": entry["network"], "dataset": entry["dataset"], "method": entry.get("method", "float"),
        "branches": branches, "weight_bits": (2 * branches or 8) if quantized else 32, "activation_bits": 8 if quantized else 32,
        "epochs": epochs, "seeds": list(seeds), "top1": top1, "val_top1": [number - 1 for number in top1],
        "zero_rate": [0.4 if branches else 0.0] * len(seeds), "device": "cpu (1 thread)", "data_source": "digits",
        "label": "SMOKE: stand-in images, not evidence",
    }  # fmt: skip
    if not quantized:
        value["weights_source"] = "trained here"
    write_json(folder / "metrics.json", value)
    rows = []
    for seed in seeds:
        for epoch in range(1, epochs + 1):
            loss = 2.3 * np.exp(-0.4 * epoch) + rng.uniform(0, 0.1)
            gap = 0.1 / epoch if branches else ""
            row = [seed, epoch, 0.02, 12.0 if branches else "", loss, 95 - 30 * loss, 93 - 30 * loss, gap]
            rows.append(dict(zip(HISTORY, row, strict=True)))
    write_csv(folder / "history.csv", rows, HISTORY)
    if quantized:
        levels = _levels(branches)
        write_json(folder / "weights.json", {"layers": [_histogram(i, levels, rng) for i in range(layers if branches else 0)]})
        write_json(folder / "annealing.json", _annealing(levels) if branches else {})


def _levels(branches):
    scales = np.array([0.6, 0.27, 0.13])[:branches]
    grid = np.array(np.meshgrid(*[[-1, 0, 1]] * branches)).reshape(branches, -1) if branches else np.zeros((0, 1))
    return np.sort(scales @ grid)


def _histogram(index, levels, rng):
    values = rng.normal(0, 0.35, 4000)
    counts, edges = np.histogram(values, 60)
    thresholds = (levels[1:] + levels[:-1]) / 2
    per_level = np.bincount(np.searchsorted(thresholds, values), minlength=len(levels))
    return {
        "name": f"layer1.{index}.conv1", "edges": edges.tolist(), "counts": counts.tolist(), "levels": levels.tolist(),
        "thresholds": thresholds.tolist(), "level_counts": per_level.tolist(),
    }  # fmt: skip


def _annealing(levels):
    x, thresholds, steps = np.linspace(-1.2, 1.2, 201), (levels[1:] + levels[:-1]) / 2, np.diff(levels)
    curves = []
    for epoch, heat in ((0, 5.0), (1, 20.0), (2, 80.0), (3, 320.0), (4, 1000.0)):
        slope = heat / levels[-1] * (x[:, None] - thresholds)
        curves.append(
            {"epoch": epoch, "temperature": heat, "outputs": (levels[0] + (steps * 0.5 * (1 + np.tanh(slope / 2))).sum(1)).tolist()}
        )
    hard = levels[0] + (steps * (x[:, None] > thresholds)).sum(1)
    return {"layer": "layer1.0.conv1", "inputs": x.tolist(), "curves": curves, "hard": hard.tolist()}


def _engine(folder, key, entry, layers, rng):
    branches = _branches(entry)
    rows = []
    for index in range(layers):
        cost = int(rng.uniform(1e6, 2e7))
        sizes = [cost, cost // 2, cost // 9, cost // 30, cost // 80, cost // 40]
        kind = ["first", "depthwise", "other"][index % 3]
        rows.append(dict(zip(LAYERS, [f"layer1.{index}.conv1", kind, *sizes], strict=True)))
    write_csv(folder / "layers.csv", rows, LAYERS)
    write_json(folder / "engine.json", {
        "images": 397, "top1_engine": 90.0, "top1_graph": 90.0, "disagreeing": 0, "disagreeing_float64": 0,
        "unexplained": 0, "smallest_width": 8,
    })  # fmt: skip
    readings = []
    for number, (reading, bias) in enumerate(READINGS):
        totals = {name: sum(row[name] for row in rows) + number for name in ("c_c", "c_s", "c_r", "c_m")}
        readings.append({"reading": reading, "count_bias": bias, "main": number == 0, **totals})
    write_json(folder / "cost.json", {
        "status": "run", "key": key, "network": entry["network"], "dataset": entry["dataset"], "method": entry["method"],
        "branches": branches, "weight_bits": 2 * branches or 8, "activation_bits": 8, "readings": readings, "macs": 40_000_000,
    })  # fmt: skip
