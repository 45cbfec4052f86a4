"""The layer policy: which layer gets which quantizer. It is resolved to a table with a reason for every layer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.nn.utils import parametrize

from dbq import quantizers
from dbq.errors import DbqError
from dbq.insertion import activations
from dbq.networks.count import LayerShape, layer_shapes
from dbq.quantizers import compiled
from dbq.quantizers.base import WeightQuantizer
from dbq.quantizers.dbq import BranchQuantizer
from dbq.quantizers.together import JointQuantization
from dbq.quantizers.uniform import Width

if TYPE_CHECKING:
    from dbq.settings.entries import Row

REASONS = {
    "first": "first layer: it sees the image and has few weights",
    "depthwise": "depthwise: short dot products, few weights, no redundancy between channels",
    "classifier": "classifier: its outputs are the logits",
}


@dataclass(frozen=True)
class PolicyRow:
    layer: str
    kind: str
    quantizer: str  # a method, or float
    weight_bits: int
    branches: int
    activation_bits: int
    activation_signed: bool
    activation_clip: float
    clip_source: str
    reason: str

    def as_dict(self) -> dict:
        return asdict(self)


COLUMNS = [column.name for column in fields(PolicyRow)]


def quantize(network: nn.Module, row: Row, images: Tensor, fit: bool = True) -> list[PolicyRow]:
    """Insert weight and activation quantizers into the float network, and return the policy table in forward order.

    images (N, 3, H, W): normalised training images for the activation ranges. fit: False if a saved state will replace the scales.
    """
    shapes = layer_shapes(network, tuple(images.shape[1:]))
    inputs = {}
    if row.activation_bits < 32:
        inputs = activations.insert(network, row.activation_bits, row.activations, images)
    table = [_quantize_layer(network, shape, row, inputs.get(shape.name), fit) for shape in shapes]
    if not any(line.quantizer == row.method for line in table):
        raise DbqError(f"rows.{row.key}.policy: it leaves no layer to the method", "set at least one kind of layer to `method`")
    JointQuantization(network)
    return table


def _quantize_layer(network: nn.Module, shape: LayerShape, row: Row, activation, fit: bool) -> PolicyRow:
    layer = network.get_submodule(shape.name)
    special = shape.kind in REASONS
    choice = getattr(row.policy, shape.kind) if special else row.policy.other
    reason = f"{REASONS[shape.kind]}; the policy says {choice}" if special and choice != "method" else f"{shape.kind}: the method"
    if choice == "float":
        method, config, bits, branches = "float", None, 32, 0
    elif choice == "method":
        method, config, bits, branches = row.method, row.quantizer, row.quantizer.weight_bits, row.quantizer.branches
    else:
        method, config, bits, branches = "uniform", Width(choice), choice, 0
    if config is not None:
        try:
            quantizer = quantizers.build(method, layer.weight, config, fit)
        except DbqError as error:
            raise DbqError(f"layer {shape.name}: {error.problem}", error.remedy) from None
        parametrize.register_parametrization(layer, "weight", quantizer)
    clip = (32, True, 0.0, "float")
    if activation is not None:
        clip = (activation.bits, activation.signed, float(activation.clip.detach()), activation.source)
    return PolicyRow(shape.name, shape.kind, method, bits, branches, *clip, reason)


def weight_quantizers(network: nn.Module) -> Iterator[tuple[str, WeightQuantizer, Tensor]]:
    """(layer name, quantizer, master weight) of every layer with quantized weights."""
    for name, module in network.named_modules():
        if parametrize.is_parametrized(module, "weight"):
            parametrization = module.parametrizations.weight
            yield name, parametrization[0], parametrization.original


def method_quantizers(network: nn.Module, method: str) -> Iterator[tuple[str, WeightQuantizer, Tensor]]:
    """As weight_quantizers, for the layers that the method quantizes. Layers that a policy leaves to `uniform` are not among them."""
    kind = quantizers.kind(method)
    return ((name, quantizer, weight) for name, quantizer, weight in weight_quantizers(network) if isinstance(quantizer, kind))


def branch_quantizers(network: nn.Module) -> Iterator[tuple[str, BranchQuantizer, Tensor]]:
    """As weight_quantizers, for the layers of DBQ."""
    return method_quantizers(network, "dbq")


def use_compiled_kernels(network: nn.Module) -> None:
    """Let DBQ's layers of a quantized network train with compiled kernels. A network without such layers has none to compile.

    Raises DbqError on a machine without a compiler.
    """
    for _, quantizer, weight in branch_quantizers(network):
        if reason := compiled.why_not(weight.device):
            raise DbqError(f"training.kernels: compiled, but there is {reason}", "install it, or set kernels: eager")
        quantizer.use_compiled = True
