"""What is measured: the quantizers by name, and a network of a name that is ready for a training step."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from dbq import networks
from dbq.benchmark import libraries
from dbq.errors import DbqError
from dbq.insertion import activations, policies
from dbq.settings import resolve as config
from dbq.settings.resolve import Row
from dbq.training import optimiser
from dbq.training.step import EAGER_STEPS, Step

DATASET, SCHEDULE, POLICY = "cifar10", "finetune", "standard"  # of all subjects
CLASSES, IMAGE_SIZE = 10, 32
CALIBRATION_IMAGES = 64
UNFITTED = {"initial": "largest"}  # a step takes as long from any scales, and the fit would take longer than the steps


@dataclass(frozen=True)
class Subject:
    """A quantizer of dbq.quantizers with these settings, or the same quantizer as a library builds it.

    Without a method the weights stay in float: with 8-bit activations that is what the activations alone cost.
    """

    method: str | None
    settings: dict
    library: str | None = None
    compile: bool | str = "auto"  # of DBQ's kernels, as in schedules
    gradient: str | None = None  # instead of activations.gradient


SUBJECTS = {
    "float": Subject(None, {}),
    "dbq-1t": Subject("dbq", {"branches": 1, **UNFITTED}),
    "dbq-2t": Subject("dbq", {"branches": 2, **UNFITTED}),
    "dbq-3t": Subject("dbq", {"branches": 3, **UNFITTED}),
    "dbq-1t-eager": Subject("dbq", {"branches": 1, **UNFITTED}, compile=False),
    "dbq-2t-eager": Subject("dbq", {"branches": 2, **UNFITTED}, compile=False),
    "dbq-3t-eager": Subject("dbq", {"branches": 3, **UNFITTED}, compile=False),
    "dbq-1t-compiled": Subject("dbq", {"branches": 1, **UNFITTED}, compile="quantizers"),
    "dbq-2t-compiled": Subject("dbq", {"branches": 2, **UNFITTED}, compile="quantizers"),
    "dbq-3t-compiled": Subject("dbq", {"branches": 3, **UNFITTED}, compile="quantizers"),
    "float-by-input": Subject(None, {}, gradient="input"),
    "dbq-2t-by-input": Subject("dbq", {"branches": 2, **UNFITTED}, gradient="input"),
    "uniform-8": Subject("uniform", {"bits": 8}),
    "twn": Subject("twn", {}),
    "ttq": Subject("ttq", {}),
    "lsq-2": Subject("lsq", {"bits": 2, "levels": "symmetric"}),
    "lsq-4": Subject("lsq", {"bits": 4, "levels": "full"}),
    "lq-nets-2": Subject("lq_nets", {"branches": 2}),
    "quantization-networks": Subject("quantization_networks", {}),
    "sawb-4": Subject("sawb", {"bits": 4}),
    "brevitas-uniform-8": Subject("uniform", {"bits": 8}, "brevitas"),
    "brevitas-lsq-2": Subject("lsq", {"bits": 2, "levels": "symmetric"}, "brevitas"),
    "brevitas-lsq-4": Subject("lsq", {"bits": 4, "levels": "full"}, "brevitas"),
    "torchao-uniform-8": Subject("uniform", {"bits": 8}, "torchao"),
}


def check_names(network_names: list[str], method_names: list[str]) -> None:
    """Raise DbqError for an unknown or a repeated name, and for none."""
    for key, names, known in (("networks", network_names, networks.NAMES), ("methods", method_names, SUBJECTS)):
        for name in names:
            if name not in known:
                raise DbqError(f"overhead.{key}: unknown value {name!r}", f"choose from {', '.join(known)}")
        if not names or len(set(names)) != len(names):
            raise DbqError(f"overhead.{key}: {names}", "name at least one, each once")


def experiment(params: dict, profile: str, network: str, name: str, activation_bits: int) -> Row:
    """The experiment that the subject `name` stands for, on the 32x32 form of the network. Its seeds make no difference to a step."""
    subject, key = SUBJECTS[name], f"{network}-{name}"
    entry = {
        "network": network, "dataset": DATASET, "method": subject.method or "dbq", "activation_bits": activation_bits, "policy": POLICY,
        "schedule": SCHEDULE, "seeds": {profile: [0]}, "quantizer": subject.settings, "training": {"compile": subject.compile},
    }  # fmt: skip
    changes = {} if subject.gradient is None else {"gradient": subject.gradient}
    activations = {**config.lookup(params, "activations"), **changes}
    return config.experiment({**params, "experiments": {key: entry}, "activations": activations}, profile, key)


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


def float_trainee(entry: Row, images: Tensor, labels: Tensor) -> Trainee:
    """The float network of an experiment."""
    return Trainee(_float_network(entry, images), entry.training, images, labels)


def quantized_trainee(entry: Row, images: Tensor, labels: Tensor) -> Trainee:
    """The network of an experiment with its quantizers inserted and, if its schedule says so, their kernels compiled."""
    network = _float_network(entry, images)
    policies.quantize(network, entry, images[:CALIBRATION_IMAGES])
    if entry.training.compile:
        policies.compile_quantizers(network, optional=entry.training.compile == "auto")
    return Trainee(network, entry.training, images, labels)


def trainee(name: str, entry: Row, images: Tensor, labels: Tensor) -> Trainee:
    """The subject `name`, whose experiment is `entry`."""
    subject = SUBJECTS[name]
    if subject.library is None and subject.method is not None:
        return quantized_trainee(entry, images, labels)
    network = _float_network(entry, images)
    if subject.library is not None:
        network = libraries.quantize(network, entry, tuple(images.shape[1:])).to(images.device, memory_format=torch.channels_last)
    elif entry.activation_bits < 32:
        activations.insert(network, entry.activation_bits, entry.activations, images[:CALIBRATION_IMAGES])
    return Trainee(network, entry.training, images, labels)


def _float_network(entry: Row, images: Tensor) -> nn.Module:
    torch.manual_seed(0)
    network = networks.build(entry.network, entry.dataset_settings.classes, entry.dataset_settings.form)
    return network.to(images.device, memory_format=torch.channels_last)
