"""The program beside the training graph: how many integers differ in each layer, and whether rounding explains each difference.

The training graph is run twice. With its own activations it shows how far apart the two networks end (`differing`). With every activation
replaced by the program's, each layer starts from the same integers, so that a difference comes from this layer alone (`mismatches`). Such
a mismatch is explained if the training graph's float value lies near enough to a rounding tie:

    |value / step - integer of the program| <= 1/2 + bound / step

The bound follows from the inputs, element by element. It covers rounded multipliers, biases and streams, and the float32 arithmetic of the
graph (fold.Slack). A wrong weight or scale gives mismatches that it doesn't explain.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from dbq.integer.compile import Compiled
from dbq.integer.fold import FLOAT32_ROUNDING
from dbq.integer.graph import operands, reading_quantizer
from dbq.integer.program import Program


@dataclass
class SiteAgreement:
    """One activation quantizer (the name of its ReLU, or LAYER.input), or the logits, over all images that were checked.

    differing: integers that differ when each network uses its own activations. mismatches: integers that differ for the same inputs, which
    rounding explains or not. farthest: the largest distance of a mismatch from a tie. widest: the largest bound. Both are in steps. The
    logits aren't rounded: a mismatch is a difference beyond the bound, always unexplained, and distances are in units of the logits.
    """

    site: str
    values: int = 0
    differing: int = 0
    mismatches: int = 0
    explained: int = 0
    unexplained: int = 0
    farthest: float = 0.0
    widest: float = 0.0

    def count(self, mismatches: int, explained: int, distances: Tensor, bounds: Tensor) -> None:
        """Add the mismatches of a batch, with their distances and the bounds of all values."""
        self.mismatches += mismatches
        self.explained += explained
        self.unexplained += mismatches - explained
        self.farthest = max(self.farthest, float(distances.max()) if len(distances) else 0.0)
        self.widest = max(self.widest, float(bounds.max()))


class Comparison(fx.Interpreter):
    """Runs the training graph beside the integers that `program` gave; `compiled` has the graph and the bounds."""

    def __init__(self, compiled: Compiled, program: Program):
        super().__init__(compiled.graph.traced)
        self.described, self.slack, self.program = compiled.graph, compiled.slack, program
        self.sites: dict[str, SiteAgreement] = {}
        self.forced, self.integers, self.bounds = False, {}, {}

    @torch.no_grad()
    def compare(self, images: Tensor, integers: dict[str, Tensor]) -> Tensor:
        """Count a batch, and return the training graph's logits. integers: those of every value of the program."""
        self.integers, self.forced = integers, False
        logits = self.run(images)
        self.forced = True
        forced = self.run(images).double()
        own = integers[self.program.logits].to(forced.device).double() * self.program.scale
        distance, bound = (forced - own).abs(), self.bounds.pop("logits").double()
        site = self.sites.setdefault("logits", SiteAgreement("logits"))
        site.values += forced.numel()
        site.count(int((~(distance <= bound)).sum()), 0, distance, bound)
        return logits

    def run_node(self, node):
        kind = self.described.kinds[node]
        if kind == "layer":
            result = self._layer(node)
        elif kind == "quantizer":
            result = self._activation(node.target, node.args[0], self.described.module(node))
        else:
            result = super().run_node(node)
        if self.forced and isinstance(result, (Tensor, tuple, list)) and kind != "size":
            self.bounds["logits" if kind == "output" else node] = self._bound(node, kind, result)
            for done in self.user_to_last_uses.get(node, []):
                self.bounds.pop(done, None)
        return result

    def _layer(self, node):
        layer, x, quantizer = self.described.module(node), self.env[node.args[0]], reading_quantizer(self.described, node)
        if quantizer is not None:
            x = self._activation(f"{node.target}.input", node.args[0], quantizer)
        if self.forced:
            slack = self.slack[node.target]
            weights, constant = torch.from_numpy(slack.weights).to(x).view(layer.weight.shape), torch.from_numpy(slack.constant).to(x)
            if isinstance(layer, nn.Conv2d):
                bound = functional.conv2d(x.abs(), weights, constant, layer.stride, layer.padding, layer.dilation, layer.groups)
            else:
                bound = functional.linear(x.abs(), weights, constant)
            self.bounds[node] = bound * 1.0001  # its own float32 sum
        return layer(x)

    def _activation(self, name: str, source: fx.Node, quantizer: nn.Module) -> Tensor:
        """Compare one activation, and return the program's in the second run, the graph's own in the first."""
        x, integers = self.env[source], self.integers[name].to(self.env[source].device)
        scaled = torch.mul(x, 1 / quantizer.step)
        differs = scaled.round().clamp_(quantizer.smallest, quantizer.largest) != integers
        site = self.sites.setdefault(name, SiteAgreement(name))
        if not self.forced:
            site.values += integers.numel()
            site.differing += int(differs.sum())
            return quantizer(x)
        bound = (self.bounds[source] + self.slack[name]) / quantizer.step
        beyond = (scaled[differs].clamp(quantizer.smallest, quantizer.largest) - integers[differs]).abs().double() - 0.5
        site.count(len(beyond), int((beyond <= bound[differs]).sum()), beyond, bound)
        return (integers * quantizer.step).to(x.dtype)

    # ---- bounds: how far the program's exact value can be from the graph's, element by element, as a real number ----

    def _bound(self, node: fx.Node, kind: str, result):
        if kind in ("image", "quantizer"):
            return torch.zeros_like(result)
        if kind in ("layer", "batch_norm", "output"):  # the bound of a layer already includes its batch norm
            return self.bounds[node if kind == "layer" else node.args[0]]
        if kind in ("add", "concatenate"):
            name = self.described.name(node)
            parts = [self.bounds[part] + self.slack.get(f"{name}.{i}", 0.0) for i, part in enumerate(operands(self.described, node))]
            return sum(parts) + FLOAT32_ROUNDING * result.abs() if kind == "add" else torch.cat(parts, 1)
        if kind == "average":
            absolute = self._again(node, lambda source: self.env[source].abs())
            height, width = self.described.shape(node.args[0])[1:]
            return self._again(node, self.bounds.__getitem__) + FLOAT32_ROUNDING * (height * width + 2) * absolute
        return self._again(node, lambda source: self.bounds.get(source, self.env.get(source)))

    def _again(self, node: fx.Node, value_of):
        """The node's own operation, run on other values."""
        arguments, keywords = fx.node.map_arg((node.args, node.kwargs), value_of)
        return getattr(self, node.op)(node.target, arguments, keywords)
