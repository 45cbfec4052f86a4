"""The layer policy: which layer gets which quantizer, resolved to a table with a reason for every layer."""

from dataclasses import asdict, dataclass, fields

from torch import Tensor, nn
from torch.nn.utils import parametrize

from dbq import quantizers
from dbq.errors import DbqError
from dbq.insertion import activations
from dbq.networks.count import LayerShape, layer_shapes
from dbq.quantizers import together
from dbq.quantizers.base import WeightQuantizer
from dbq.quantizers.compiled import check_compiler, why_not
from dbq.quantizers.dbq import BranchQuantizer
from dbq.settings.quantizers import UniformSettings
from dbq.settings.resolve import Row

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


def quantize(network: nn.Module, experiment: Row, images: Tensor, fit: bool = True) -> list[PolicyRow]:
    """Insert weight and activation quantizers into the float network and return the resolved table in forward order.

    images (N, 3, H, W): normalised training images for the activation ranges. fit: False where a saved state follows.
    """
    shapes = layer_shapes(network, tuple(images.shape[1:]))
    inputs = {}
    if experiment.activation_bits < 32:
        inputs = activations.insert(network, experiment.activation_bits, experiment.activations, images)
    rows = [_quantize_layer(network, shape, experiment, inputs.get(shape.name), fit) for shape in shapes]
    if not any(row.quantizer == experiment.method for row in rows):
        raise DbqError(f"experiments.{experiment.key}.policy: no layer is left to the method", "set at least one kind of layer to `method`")
    together.attach(network)
    return rows


def _quantize_layer(network, shape: LayerShape, experiment: Row, activation, fit: bool) -> PolicyRow:
    layer = network.get_submodule(shape.name)
    special = shape.kind in REASONS
    choice = getattr(experiment.policy, shape.kind) if special else experiment.policy.other
    reason = f"{REASONS[shape.kind]}; the policy says {choice}" if special and choice != "method" else f"{shape.kind}: the method"
    if choice == "float":
        method, bits, branches = "float", 32, 0
    else:
        method, config = (experiment.method, experiment.quantizer) if choice == "method" else ("uniform", UniformSettings(choice))
        bits, branches = config.weight_bits, config.branches
        parametrize.register_parametrization(layer, "weight", _build(method, layer.weight, config, fit, shape.name))
    clip = (
        (activation.bits, activation.signed, float(activation.clip.detach()), activation.source) if activation else (32, True, 0.0, "float")
    )
    return PolicyRow(shape.name, shape.kind, method, bits, branches, *clip, reason)


def _build(method: str, weight: Tensor, config, fit: bool, layer: str) -> WeightQuantizer:
    try:
        quantizer = quantizers.build(method, weight, config, fit)
        if fit:
            quantizer.prepare(weight.detach())
    except DbqError as error:
        raise DbqError(f"layer {layer}: {error.problem}", error.remedy) from None
    return quantizer


def weight_quantizers(network: nn.Module):
    """(layer name, quantizer, master weight) of every layer with quantized weights."""
    for name, module in network.named_modules():
        if parametrize.is_parametrized(module, "weight"):
            parametrization = module.parametrizations.weight
            yield name, parametrization[0], parametrization.original


def method_quantizers(network: nn.Module, method: str):
    """Those of the layers that the method quantizes; `uniform` layers of another method's policy aren't among them."""
    kind = quantizers.kind(method)
    return ((name, quantizer, weight) for name, quantizer, weight in weight_quantizers(network) if isinstance(quantizer, kind))


def branch_quantizers(network: nn.Module):
    """(layer name, quantizer, master weight) of every layer of ternary branches."""
    return ((name, quantizer, weight) for name, quantizer, weight in weight_quantizers(network) if isinstance(quantizer, BranchQuantizer))


def compile_quantizers(network: nn.Module, optional: bool = False) -> str:
    """Let DBQ's layers train with compiled kernels; returns which kernels they have then: compiled, or eager and why.

    On a machine that can't compile raises DbqError, or leaves them eager where they are optional. On a GPU optional ones stay eager too:
    there compiled ones have not been measured.
    """
    device = next(network.parameters()).device
    reason = "not measured on a GPU" if device.type != "cpu" else why_not(device)
    if optional and reason:
        return f"eager ({reason})"
    check_compiler(device)
    for _, quantizer, _ in branch_quantizers(network):
        quantizer.wants_compiled = True
    return "compiled"
