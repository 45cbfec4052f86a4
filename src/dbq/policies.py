"""The layer policy: which layer gets which quantizer, resolved to a table with a reason for every layer."""

from dataclasses import asdict, dataclass, fields

from torch import Tensor, nn
from torch.nn.utils import parametrize

from dbq import activations
from dbq.config import DbqConfig, Experiment
from dbq.errors import DbqError
from dbq.networks.count import LayerShape, layer_shapes
from dbq.quantizers.dbq import BranchQuantizer
from dbq.quantizers.uniform import UniformQuantizer

REASONS = {
    "first": "first layer: it sees the image and has few weights",
    "depthwise": "depthwise: short dot products, few weights, no redundancy between channels",
    "classifier": "classifier: its outputs are the logits",
}


@dataclass(frozen=True)
class PolicyRow:
    layer: str
    kind: str
    quantizer: str  # dbq, uniform or float
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


def quantize(network: nn.Module, experiment: Experiment, images: Tensor, fit_scales: bool = True) -> list[PolicyRow]:
    """Insert weight and activation quantizers into the float network and return the resolved table in forward order.

    images (N, 3, H, W): normalised training images for the activation ranges. fit_scales: False where a saved state follows.
    """
    shapes = layer_shapes(network, tuple(images.shape[1:]))
    quantizers = {}
    if experiment.activation_bits < 32:
        quantizers = activations.insert(network, experiment.activation_bits, experiment.activations, images)
    rows = [_quantize_layer(network, shape, experiment, quantizers.get(shape.name), fit_scales) for shape in shapes]
    if experiment.method == "dbq" and not any(row.quantizer == "dbq" for row in rows):
        raise DbqError(f"experiments.{experiment.key}.policy: no layer is left to the method", "set at least one kind of layer to `method`")
    return rows


def _quantize_layer(network, shape: LayerShape, experiment: Experiment, activation, fit_scales: bool) -> PolicyRow:
    layer = network.get_submodule(shape.name)
    choice = getattr(experiment.policy, shape.kind) if shape.kind in REASONS else experiment.policy.other
    reason = (
        f"{REASONS[shape.kind]}; the policy says {choice}" if choice != "method" and shape.kind in REASONS else f"{shape.kind}: the method"
    )
    if choice == "method":
        config = experiment.quantizer
        quantizer, bits, branches = experiment.method, config.weight_bits, config.branches
    elif choice == "float":
        quantizer, bits, branches = "float", 32, 0
    else:
        quantizer, bits, branches = "uniform", choice, 0
    if quantizer == "dbq":
        module = _branch_quantizer(layer, shape.name, experiment.quantizer, fit_scales)
        parametrize.register_parametrization(layer, "weight", module)
    elif quantizer == "uniform":
        parametrize.register_parametrization(layer, "weight", UniformQuantizer(bits).to(layer.weight.device))
    clip = (
        (activation.bits, activation.signed, float(activation.clip.detach()), activation.source) if activation else (32, True, 0.0, "float")
    )
    return PolicyRow(shape.name, shape.kind, quantizer, bits, branches, *clip, reason)


def _branch_quantizer(layer, name: str, config: DbqConfig, fit_scales: bool) -> BranchQuantizer:
    try:
        return BranchQuantizer(layer.weight, config, fit_scales).to(layer.weight.device)
    except DbqError as error:
        raise DbqError(f"layer {name}: {error.problem}", error.remedy) from None


def weight_quantizers(network: nn.Module):
    """(layer name, quantizer, master weight) of every layer with quantized weights."""
    for name, module in network.named_modules():
        if parametrize.is_parametrized(module, "weight"):
            parametrization = module.parametrizations.weight
            yield name, parametrization[0], parametrization.original


def branch_quantizers(network: nn.Module):
    """(layer name, quantizer, master weight) of every layer of ternary branches."""
    return ((name, quantizer, weight) for name, quantizer, weight in weight_quantizers(network) if isinstance(quantizer, BranchQuantizer))
