"""What is measured: the quantizers by name, and a network of a name that is ready for a training step.

The settings stand here and not in params.yaml: what is measured has to stay the same, whatever rows are trained. How long a step takes
doesn't depend on learning rates, temperatures or the values of scales.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from dbq import networks
from dbq.errors import DbqError
from dbq.insertion import activations, policies
from dbq.networks.count import layer_shapes
from dbq.quantizers import compiled
from dbq.settings.entries import ActivationSettings, DatasetSettings, PolicySettings, Row, TrainingSettings
from dbq.settings.quantizers import METHODS
from dbq.settings.values import Settings
from dbq.training import optimiser
from dbq.training.step import EAGER_STEPS, Step

CLASSES, IMAGE_SIZE = 10, 32
CALIBRATION_IMAGES = 64
DATA = DatasetSettings(
    source="cifar10", classes=CLASSES, form="32x32", validation=5000, split_seed=0, stand_in=False, augment={"pad": 4, "flip": True},
    normalise="measured",
)  # fmt: skip
POLICY = PolicySettings(first=8, depthwise=8, classifier=8, other="method")
TRAINING = {
    "epochs": 1, "batch_size": 128, "learning_rate": 0.02, "schedule": "constant", "milestones": [], "warmup_epochs": 0, "momentum": 0.9,
    "nesterov": True, "weight_decay": 1e-4, "label_smoothing": 0.0, "scale_learning_rate": 1.0, "bn_batches": 0, "frozen_bn_epochs": 0,
    "distillation": 0.0, "distillation_temperature": 4.0, "precision": "fp32", "threads": 1, "deterministic": False,
}  # fmt: skip


@dataclass(frozen=True)
class Subject:
    """A quantizer of dbq.quantizers with these settings, or the same quantizer as a library builds it (`pip install '.[libraries]'`).

    Without a quantizer the weights stay in float: with 8-bit activations that is what the activations alone cost.
    """

    method: str = "dbq"
    quantizer: Settings | None = None
    library: str | None = None
    kernels: str = "eager"
    gradient: str = "output"  # of the activations


def _dbq(branches: int, **others: str) -> Subject:
    """`largest`: a step takes as long from any scales, and a fit of them would take longer than the steps."""
    rest = {"forward": "hard", "temperature": 12.0, "scales": "layer", "gradient_scale": "lsq", "initial": "largest"}
    return Subject("dbq", METHODS["dbq"](branches=branches, **rest), **others)


def _rival(method: str, library: str | None = None, **settings) -> Subject:
    return Subject(method, METHODS[method](**settings), library)


SUBJECTS = {
    "float": Subject(),
    "dbq-1t": _dbq(1),
    "dbq-2t": _dbq(2),
    "dbq-3t": _dbq(3),
    "dbq-1t-compiled": _dbq(1, kernels="compiled"),
    "dbq-2t-compiled": _dbq(2, kernels="compiled"),
    "dbq-3t-compiled": _dbq(3, kernels="compiled"),
    "float-by-input": Subject(gradient="input"),
    "dbq-2t-by-input": _dbq(2, gradient="input"),
    "uniform-8": _rival("uniform", bits=8),
    "twn": _rival("twn", scales="channel"),
    "ttq": _rival("ttq", threshold=0.05, initial="mean", gradient_scale="lsq"),
    "lsq-2": _rival("lsq", bits=2, levels="symmetric"),
    "lsq-4": _rival("lsq", bits=4, levels="full"),
    "lq-nets-2": _rival("lq_nets", branches=2, scales="channel"),
    "quantization-networks": _rival("quantization_networks", levels=[-1, 0, 1], temperature_step=20.0, temperature_cap=2000.0),
    "sawb-4": _rival("sawb", bits=4),
    "brevitas-uniform-8": _rival("uniform", "brevitas", bits=8),
    "brevitas-lsq-2": _rival("lsq", "brevitas", bits=2, levels="symmetric"),
    "brevitas-lsq-4": _rival("lsq", "brevitas", bits=4, levels="full"),
}


def names(network_names: list[str], method_names: list[str] | str) -> list[str]:
    """The methods, where `all` stands for every one. Raises DbqError for an unknown or a repeated name, and for none."""
    methods = list(SUBJECTS) if method_names == "all" else method_names
    for key, found, known in (("networks", network_names, networks.NAMES), ("methods", methods, SUBJECTS)):
        for name in found:
            if name not in known:
                raise DbqError(f"overhead.{key}: unknown value {name!r}", f"choose from {', '.join(known)}")
        if not found or len(set(found)) != len(found):
            raise DbqError(f"overhead.{key}: {found}", "name at least one, each once")
    return methods


def check_device(device: str) -> None:
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise DbqError(f"device: {device} was asked for and torch finds no GPU", "use the device cpu")


def why_not(name: str, device: str) -> str | None:
    """Why this machine can't train the subject, or None."""
    subject = SUBJECTS[name]
    if subject.library and importlib.util.find_spec(subject.library) is None:
        return "not installed (pip install '.[libraries]')"
    return compiled.why_not(torch.device(device)) if subject.kernels == "compiled" else None


def row(network: str, name: str, activation_bits: int) -> Row:
    """The row that the subject `name` stands for, on the 32x32 form of the network."""
    subject, quantizer = SUBJECTS[name], SUBJECTS[name].quantizer or SUBJECTS["dbq-1t"].quantizer
    clips = ActivationSettings(clip="batch_norm", k=4.0, calibration_images=CALIBRATION_IMAGES, gradient=subject.gradient)
    return Row(
        key=f"{network}-{name}", profile="overhead", start=network, network=network, dataset="cifar10", dataset_settings=DATA,
        method=subject.method, quantizer=quantizer, weight_bits=quantizer.weight_bits, branches=quantizer.branches,
        activation_bits=activation_bits, activations=clips, policy=POLICY,
        training=TrainingSettings(**TRAINING, kernels=subject.kernels), seeds=[0], judged="test", compared_with=None,
    )  # fmt: skip


class Trainee:
    """A network in training mode with its optimiser; calling it does one whole training step, as dbq.training does it."""

    def __init__(self, network: nn.Module, recipe, images: Tensor, labels: Tensor):
        self.network = network.train()
        self.step = Step(network, optimiser.build(network, recipe), self._loss)
        self.images, self.labels = images, labels

    def __call__(self) -> None:
        for quantizer in self.step.quantizers:
            quantizer.advance(0.5, 0)
        self.step(self.images, self.labels)

    def why_no_graph(self) -> str | None:
        """On a GPU: does the steps up to the first replay of a CUDA graph, and says why there is none."""
        if self.images.device.type != "cuda":
            return None
        try:
            for _ in range(EAGER_STEPS + 1):
                self()
            torch.cuda.synchronize(self.images.device)
        except RuntimeError as error:  # a library's quantizer may read values on the host
            return f"no CUDA graph of its step ({str(error).splitlines()[0]})"
        return None if self.step.captures else "no CUDA graph of its step"

    def _loss(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.network(images)
        return functional.cross_entropy(logits, labels), logits


def random_batch(batch_size: int, device: str, size: int = IMAGE_SIZE, classes: int = CLASSES) -> tuple[Tensor, Tensor]:
    """Images (N, 3, size, size) and labels (N,): what they show makes no difference to the time of a step."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(batch_size, 3, size, size, generator=generator).contiguous(memory_format=torch.channels_last)
    return images.to(device), torch.randint(0, classes, (batch_size,), generator=generator).to(device)


def float_trainee(row: Row, images: Tensor, labels: Tensor) -> Trainee:
    """The float network of a row."""
    return Trainee(_float_network(row, images), row.training, images, labels)


def quantized_trainee(row: Row, images: Tensor, labels: Tensor) -> Trainee:
    """The network of a row with its quantizers inserted, and compiled kernels where the row asks for them."""
    network = _float_network(row, images)
    policies.quantize(network, row, images[:CALIBRATION_IMAGES])
    if row.training.kernels == "compiled":
        policies.use_compiled_kernels(network)
    return Trainee(network, row.training, images, labels)


def trainee(name: str, row: Row, images: Tensor, labels: Tensor) -> Trainee:
    """The subject `name`, whose row is `row`."""
    subject = SUBJECTS[name]
    if subject.library is None and subject.quantizer is not None:
        return quantized_trainee(row, images, labels)
    network = _float_network(row, images)
    if subject.library is not None:
        network = _by_brevitas(network, row, tuple(images.shape[1:])).to(images.device, memory_format=torch.channels_last)
    elif row.activation_bits < 32:
        activations.insert(network, row.activation_bits, row.activations, images[:CALIBRATION_IMAGES])
    return Trainee(network, row.training, images, labels)


def _float_network(row: Row, images: Tensor) -> nn.Module:
    torch.manual_seed(0)
    network = networks.build(row.network, row.dataset_settings.classes, row.dataset_settings.form)
    return network.to(images.device, memory_format=torch.channels_last)


def _by_brevitas(network: nn.Module, row: Row, image_shape: tuple[int, int, int]) -> nn.Module:
    """The network with Brevitas's layers (https://github.com/Xilinx/brevitas), of the bits that the layer policy gives; float activations.

    `uniform`: the scale follows the largest weight; `lsq`: one learnt scale per layer, its gradient through the rounding.
    """
    from brevitas import nn as layers
    from brevitas.inject.enum import ScalingImplType
    from brevitas.quant import Int8WeightPerTensorFloat

    for shape in layer_shapes(network, image_shape):
        layer = network.get_submodule(shape.name)
        choice = getattr(row.policy, shape.kind) if shape.kind in policies.REASONS else row.policy.other
        learnt = choice == "method" and row.method == "lsq"
        settings = {
            "bit_width": row.quantizer.weight_bits if choice == "method" else choice,
            "scaling_impl_type": ScalingImplType.PARAMETER_FROM_STATS if learnt else ScalingImplType.STATS,
            "narrow_range": not (learnt and row.quantizer.levels == "full"),
        }
        common = {"bias": layer.bias is not None, "weight_quant": type("WeightQuantizer", (Int8WeightPerTensorFloat,), settings)}
        if isinstance(layer, nn.Conv2d):
            sizes = {name: getattr(layer, name) for name in ("stride", "padding", "dilation", "groups")}
            new = layers.QuantConv2d(layer.in_channels, layer.out_channels, layer.kernel_size, **sizes, **common)
        else:
            new = layers.QuantLinear(layer.in_features, layer.out_features, **common)
        new.load_state_dict({name: value.detach().clone() for name, value in layer.state_dict().items()}, strict=False)
        network.set_submodule(shape.name, new)
    return network
