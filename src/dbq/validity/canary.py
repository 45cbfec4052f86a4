"""Some steps of every method on random images, with fixed seed and one thread: the same weights mean that the code computes the same.

    python -m dbq canary              # a minute; prints what differs from the last record of this machine
    python -m dbq canary --record     # adds this commit to results/canary.json, which proves equivalence (equivalence.py)

A subject is a method on a network; its digest covers several settings of the method.
"""

from __future__ import annotations

import hashlib
import os
import platform
import tempfile
from collections.abc import Iterator
from pathlib import Path

from dbq.files import read_json, write_json
from dbq.settings.entries import ActivationSettings, CostSettings, DatasetSettings, PolicySettings, Row, Start, TrainingSettings
from dbq.settings.quantizers import METHODS
from dbq.validity import equivalence, identity

TRAINING = {
    "epochs": 1, "batch_size": 16, "learning_rate": 0.02, "schedule": "cosine", "milestones": [], "warmup_epochs": 0, "momentum": 0.9,
    "nesterov": True, "weight_decay": 1e-4, "label_smoothing": 0.0, "scale_learning_rate": 1.0, "bn_batches": 2, "frozen_bn_epochs": 0,
    "distillation": 0.0, "distillation_temperature": 4.0, "precision": "fp32", "kernels": "eager", "threads": 1, "deterministic": True,
}  # fmt: skip
DATASET = {
    "source": "digits", "classes": 10, "form": "32x32", "validation": 32, "split_seed": 0, "stand_in": True,
    "augment": {"pad": 1, "flip": True}, "normalise": "imagenet",
}  # fmt: skip
ACTIVATIONS = {"clip": "batch_norm", "k": 4.0, "calibration_images": 32, "gradient": "output"}
POLICY = {"first": 8, "depthwise": 8, "classifier": 8, "other": "method"}
DBQ = {
    "branches": 2, "forward": "hard", "temperature": {"schedule": "constant", "start": 12.0, "end": 12.0}, "scales": "layer",
    "gradient_scale": "lsq", "initial": "least_squares",
}  # fmt: skip
SOFT = {**DBQ, "branches": 1, "forward": "soft", "temperature": {"schedule": "exponential", "start": 3.0, "end": 100.0}}
# method: (settings, changes of the training, of the activations, of the policy)
VARIANTS = {
    "dbq": [
        (DBQ, {}, {}, {}), ({**DBQ, "branches": 1}, {}, {}, {}), ({**DBQ, "branches": 3}, {}, {}, {"first": "method"}),
        ({**DBQ, "scales": "channel"}, {"scale_learning_rate": 0.1}, {}, {}), (SOFT, {"schedule": "step", "milestones": [1]}, {}, {}),
        (DBQ, {"distillation": 0.7}, {}, {}), (DBQ, {"precision": "bf16"}, {}, {}), (DBQ, {}, {"clip": "learnt"}, {}),
        (DBQ, {"frozen_bn_epochs": 1}, {"gradient": "input"}, {}),
    ],
    "uniform": [({"bits": 8}, {}, {}, {}), ({"bits": 4}, {}, {}, {})],
    "twn": [({"scales": "channel"}, {}, {}, {}), ({"scales": "layer"}, {}, {}, {})],
    "ttq": [({"threshold": 0.05, "initial": "mean", "gradient_scale": "lsq"}, {}, {}, {})],
    "lsq": [({"bits": 2, "levels": "symmetric"}, {}, {}, {}), ({"bits": 4, "levels": "full"}, {}, {}, {})],
    "lq_nets": [({"branches": 2, "scales": "channel"}, {}, {}, {})],
    "quantization_networks": [({"levels": [-1, 0, 1], "temperature_step": 20.0, "temperature_cap": 2000.0}, {}, {}, {})],
    "sawb": [({"bits": 4}, {}, {}, {})],
}  # fmt: skip
COSTS = ("c_c", "c_s", "c_r", "c_m")
READINGS = ("adder_only", "two_bit_multiplier")  # that are as old as the engine
OTHERS = ("mobilenet_v1", "mobilenet_v2", "shufflenet_v2")
ON_OTHERS = ("dbq", "uniform", "ttq", "lsq")  # their first settings alone


def subjects() -> Iterator[tuple[str, str, list]]:
    """(method or "float", network, variants)."""
    for network in ("resnet20", *OTHERS):
        yield "float", network, [None]
        for method, variants in VARIANTS.items():
            if network == "resnet20" or method in ON_OTHERS:
                yield (
                    method,
                    network,
                    variants if network == "resnet20" else [*variants[:1], *([(*variants[0][:3], {"depthwise": "method"})])],
                )


def entry(method: str, network: str, variant) -> Row | Start:
    """The training of one variant."""
    changes = {} if variant is None else variant[1]
    common = {
        "key": "canary", "profile": "canary", "network": network, "dataset": "canary",
        "dataset_settings": DatasetSettings.model_validate(DATASET), "training": TrainingSettings.model_validate({**TRAINING, **changes}),
    }  # fmt: skip
    if variant is None:
        return Start(**common, seed=0, weights=None)
    quantizer, _, activations, policy = variant
    made = METHODS[method].model_validate(quantizer)
    return Row(
        **common, start="canary", method=method, quantizer=made, weight_bits=made.weight_bits, branches=made.branches, activation_bits=8,
        activations=ActivationSettings.model_validate({**ACTIVATIONS, **activations}),
        policy=PolicySettings.model_validate({**POLICY, **policy}), seeds=[0], judged="test", compared_with=None,
    )  # fmt: skip


def run(log=print) -> dict:
    """{"method network": {"code": digest, "weights": digest}} of every subject."""
    from dbq.training import runs
    from dbq.training.checkpoints import tensors_digest

    found, beginnings = {}, {}
    with tempfile.TemporaryDirectory(prefix="dbq-canary-") as folder:
        data = random_images(Path(folder) / "data")
        for method, network, variants in subjects():
            total, code = hashlib.sha256(), identity.code_of(entry(method, network, variants[0]))
            for number, variant in enumerate(variants):
                place = runs.Place(data, Path(folder) / f"{method}-{network}-{number}", log=lambda line: None)
                one = entry(method, network, variant)
                done = runs.train_float(one, place, code) if variant is None else runs.train_row(one, 0, beginnings[network], place, code)
                if variant is None:
                    beginnings[network] = runs.beginning_of(done, "canary")
                total.update(f"{tensors_digest(done.network.state_dict())} {done.top1} {done.fit.val_top1};".encode())
                if variant is not None and number == 0:
                    found[f"engine {method} {network}"] = {
                        "code": identity.engine_code_of(one),
                        "weights": counted_and_replayed(done.network),
                    }
            found[f"{method} {network}"] = {"code": code, "weights": total.hexdigest()}
            log(f"{method} {network}: {total.hexdigest()[:16]}")
    return found


def counted_and_replayed(quantized) -> str:
    """Hex sha256 of the costs under the readings of COSTS and of the integer logits of random images."""
    import torch

    from dbq.cost import network
    from dbq.integer import execute
    from dbq.integer.compile import Widths, compile_network

    images = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    counted = network.count(quantized, 32, 8, CostSettings(reading="adder_only", count_bias=False, scale_bits=8))
    readings = sorted(
        tuple(row[name] for name in ("reading", "count_bias", *COSTS)) for row in counted.readings if row["reading"] in READINGS
    )
    program = compile_network(quantized, (3, 32, 32), Widths(30, 32)).program
    logits = execute.run(program, images).to(torch.int64).tolist()
    return hashlib.sha256(f"{readings} {logits}".encode()).hexdigest()


def random_images(folder: Path) -> Path:
    """A prepared data set of random pixels."""
    import numpy as np

    from dbq.datasets import arrays

    random = np.random.default_rng(0)
    shape = {"train": 96, "test": 32}
    images = {split: random.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8) for split, count in shape.items()}
    labels = {split: np.arange(count) % 10 for split, count in shape.items()}
    source = arrays.Source(
        title="random pixels", kind="generated", url="", licence="none", split_rule="generated", files=[], md5_identical=False,
        class_names=[str(digit) for digit in range(10)], train_images=images["train"], train_labels=labels["train"],
        test_images=images["test"], test_labels=labels["test"],
    )  # fmt: skip
    arrays.write(source, "canary", "canary", DatasetSettings.model_validate(DATASET), folder)
    return folder


def machine() -> str:
    """What decides the last bits besides code: processor, torch, Python."""
    import torch

    model = platform.processor()
    if os.path.exists("/proc/cpuinfo"):
        lines = dict(line.split(":", 1) for line in Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines() if ":" in line)
        named = {name.strip(): value.strip() for name, value in lines.items()}
        model = f"{named.get('vendor_id', '')} family {named.get('cpu family', '')} model {named.get('model', '')}"
    return f"{model}, torch {torch.__version__}, Python {platform.python_version()}, {torch.backends.cpu.get_cpu_capability()}"


def compare(found: dict, record: Path = equivalence.RECORD) -> tuple[list[str], list[str]]:
    """Subjects whose weights equal, and whose weights differ from, the last record of this machine."""
    past = [one for one in (read_json(record) if Path(record).is_file() else []) if one["machine"] == machine()]
    last = past[-1]["subjects"] if past else {}
    equal = [name for name, one in found.items() if name in last and last[name]["weights"] == one["weights"]]
    return equal, [name for name in found if name in last and name not in equal]


def write(found: dict, commit: str, record: Path = equivalence.RECORD) -> None:
    """Add a run to the record; an earlier one of the same commit and machine is replaced."""
    past = read_json(record) if Path(record).is_file() else []
    kept = [one for one in past if (one["commit"], one["machine"]) != (commit, machine())]
    write_json(record, [*kept, {"commit": commit, "machine": machine(), "subjects": found}])
