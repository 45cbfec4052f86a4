"""Replay a trained quantized network in integers beside its training graph, and find how wide its multipliers have to be.

`batches` has a method in_order() that gives (normalised images, labels), as dbq.datasets.loader.Batches has.
"""

import copy
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import takewhile

import torch
from torch import Tensor, nn

from dbq.errors import DbqError
from dbq.integer import fixed_point
from dbq.integer.agreement import Comparison, SiteAgreement
from dbq.integer.compile import Compiled, Widths, compile_network
from dbq.integer.execute import run
from dbq.integer.program import Program

WIDTHS = tuple(range(2, 17))


@dataclass
class Agreement:
    """The program (`engine`) beside the training graph in float32, as it was trained (`graph`), and in float64. top1 in percent.

    disagreeing: positions of the images that the engine classifies differently from the graph in float32; disagreeing_float64: from the
    graph in float64. logit_difference: the largest difference from a logit of the graph in float64, over the range of its logits.
    sites: in forward order. accumulators: of each layer, the bits of the worst case and those that the images needed.
    """

    images: int
    fixed_point_bits: int
    top1_graph: float
    top1_float64: float
    top1_engine: float
    disagreeing: list[int]
    disagreeing_float64: list[int]
    graph_disagreeing_float64: int  # images that the graph itself classifies differently in float32 and in float64
    logit_difference: float
    sites: list[SiteAgreement]
    accumulators: list[dict]

    @property
    def unexplained(self) -> int:
        """Integers that neither float rounding nor the rounding of constants explains: 0 if the program is right."""
        return sum(site.unexplained for site in self.sites)


def image_shape(batches) -> tuple[int, int, int]:
    return tuple(next(iter(batches.in_order()))[0].shape[1:])


def percent(found: Tensor, truth: Tensor) -> float:
    """Top1 of these classes."""
    return 100.0 * float((found == truth).sum()) / len(truth)


@torch.no_grad()
def replay(
    network: nn.Module,
    batches,
    settings: Widths | None = None,
    checked: int | None = None,
    compiled: Compiled | None = None,
    program: Program | None = None,
) -> Agreement:
    """Run the program and the training graph on every batch and compare their classes, activations and logits.

    checked: activations are compared in the first batches that hold so many images (None: in all), which takes three times as long as the
    classes alone. compiled: a result of compile_network, to save its time. program: another program to compare with the graph. Raises
    DbqError as compile_network and execute.run do, and on a machine whose float convolutions aren't exact.
    """
    if compiled is None:
        compiled = compile_network(network, image_shape(batches), settings)
    program = program or compiled.program
    comparison, observed = Comparison(compiled, program), {}
    network64 = copy.deepcopy(network).double()
    outputs, done = [], 0  # outputs: (logits of the graph in float32 and in float64, and of the program, labels) of each batch
    for images, targets in batches.in_order():
        if not outputs:
            check_exact(program, images[:1])
        if checked is None or done < checked:
            logits, integers = run(program, images, observe=observed, keep=True)
            graph = comparison.compare(images, integers)
        else:
            logits, graph = run(program, images, observe=observed), network(images)
        outputs.append((graph.cpu(), network64(images.double()).cpu(), logits, targets.cpu()))
        done += len(targets)
    graph, exact, logits, truth = (torch.cat(part) for part in zip(*outputs, strict=True))
    difference = (logits.double() * program.scale - exact).abs().max() / (exact.max() - exact.min())
    graph, exact, engine = (found.argmax(1) for found in (graph, exact, logits))
    bits = {layer: fixed_point.signed_bits(*ends) for layer, ends in observed.items()}
    accumulators = [
        {"layer": one.layer, "worst_case_bits": one.accumulator_bits, "observed_bits": bits[one.layer]} for one in program.dot_products()
    ]
    return Agreement(
        len(truth), program.fixed_point_bits, percent(graph, truth), percent(exact, truth), percent(engine, truth),
        (engine != graph).nonzero().flatten().tolist(), (engine != exact).nonzero().flatten().tolist(), int((graph != exact).sum()),
        float(difference), list(comparison.sites.values()), accumulators,
    )  # fmt: skip


def check_exact(program: Program, images: Tensor) -> None:
    """Raise DbqError unless the fast arithmetic gives the integers of int64 arithmetic for these images, in every value."""
    _, fast = run(program, images, keep=True)
    _, exact = run(program, images, exact=True, keep=True)
    for name, integers in exact.items():
        if not torch.equal(fast[name].long(), integers):
            problem = f"{name}: this machine's floating-point convolutions don't give exact integers"
            raise DbqError(problem, "switch off settings that lower the precision of float32, or run the program with exact=True")


@torch.no_grad()
def width_table(network: nn.Module, batches, widths: Iterable[int] = WIDTHS, settings: Widths | None = None) -> list[dict]:
    """For each width of the multipliers: fixed_point_bits, top1 of the program and of the training graph, and images of another class.

    The graph computes in float64. In float32 it rounds its own sums, and no width of the multipliers would reproduce that.
    """
    shape, exact = image_shape(batches), copy.deepcopy(network).double()
    pairs = [(exact(images.double()).argmax(1).cpu(), targets.cpu()) for images, targets in batches.in_order()]
    graph, labels = (torch.cat(part) for part in zip(*pairs, strict=True))
    rows = []
    for width in widths:
        program = compile_network(network, shape, replace(settings or Widths(), fixed_point_bits=width)).program
        engine = torch.cat([run(program, images).argmax(1) for images, _ in batches.in_order()])
        rows.append({
            "fixed_point_bits": width, "top1": percent(engine, labels), "top1_graph": percent(graph, labels),
            "disagreeing": int((engine != graph).sum()),
        })  # fmt: skip
    return rows


def smallest_width(
    network: nn.Module, batches, tolerance: float = 0.0, widths: Iterable[int] = WIDTHS, settings: Widths | None = None
) -> tuple[int, list[dict]]:
    """The smallest of `widths` whose top-1, and that of every wider one, is at most `tolerance` points below the training graph's.

    Choose it on validation images. Returns the width and the table of all widths. Raises DbqError if even the widest loses more.
    """
    table = width_table(network, batches, sorted(widths), settings)
    enough = list(takewhile(lambda row: row["top1"] >= row["top1_graph"] - tolerance - 1e-9, reversed(table)))
    if not enough:
        row = table[-1]
        top1s = f"{row['top1']:.2f} %, the training graph {row['top1_graph']:.2f} %"
        raise DbqError(f"engine.fixed_point_bits: {row['fixed_point_bits']} bits give {top1s}", "try wider ones, or a larger tolerance")
    return enough[-1]["fixed_point_bits"], table
