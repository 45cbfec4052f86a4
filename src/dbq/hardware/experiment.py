"""Engines for dot products of a trained network: trained weights and real activations instead of random ones.

    python -m dbq.hardware trained resnet20-cifar10-dbq-2t --profile cifar10 --out data/reference/hardware-trained.csv

puts the rows of this experiment into the file beside those of others, in a quarter of an hour on one core: for each layer an engine with
a weight port, and engines whose constants are the weights of one output channel. Validation images go through the integer engine, whose
multipliers have the bits that the cost counts for a scale; each simulated result, finished with the layer's bias and shift, must be the
integer that the integer engine gave.
"""

from collections.abc import Callable, Iterable
from pathlib import Path

from dbq import datasets
from dbq.cost import network as replay
from dbq.datasets.arrays import Split
from dbq.errors import DbqError
from dbq.files import write_csv
from dbq.hardware import measure, table, tools
from dbq.hardware.simulation import compare
from dbq.hardware.synthesis import synthesise
from dbq.hardware.trained import layer_vectors, layers_by_length, median_channel, ternary_layer
from dbq.integer import replay as integer
from dbq.integer.compile import Widths, compile_network
from dbq.integer.program import Program
from dbq.settings.resolve import CostSettings, EngineSettings, Row
from dbq.training import runs
from dbq.training.checkpoints import tensors_digest

IMAGES = 100  # that the vectors are drawn from; a layer of ResNet-20 has 64 to 1,024 positions in each
ENGINES = (("port", "chain"), ("constant", "chain"), ("constant", "tree"))


def measure_experiment(
    experiment: Row,
    model,
    data,
    cost: CostSettings,
    engine: EngineSettings,
    layers: Iterable[str] | None = None,
    count: int = measure.VECTORS,
    images: int = IMAGES,
    jobs: int = 1,
    report: Callable[[dict], None] | None = None,
) -> list[dict]:
    """Rows with TRAINED_COLUMNS for the network of the experiment's first seed.

    layers: None is layers_by_length(). count: dot products of a weight port, a tenth of it of constant weights, drawn from the first
    `images` validation images. Raises DbqError for a missing tool (before anything else), an unknown layer, and a model or data set that
    can't be read.
    """
    for name in tools.TOOLS:
        tools.find(name)
    prepared = datasets.load(Path(data), ("val",))
    split, manifest = prepared.splits["val"], prepared.manifest
    if images > len(split.labels):
        raise DbqError(f"--images: {images}, and {data} has {len(split.labels)} validation images", f"pass {len(split.labels)} or fewer")
    network = replay.load(experiment, model).network
    batches = runs.batches(Split(split.images[:images], split.labels[:images]), manifest, images, "cpu")
    settings = Widths(cost.scale_bits, engine.accumulator_bits)
    program = compile_network(network, integer.image_shape(batches), settings).program
    layers = layers_by_length(program) if layers is None else list(layers)
    for layer in layers:
        ternary_layer(program, layer)
    _, values = program.run(next(iter(batches.in_order()))[0], keep=True)
    about = {
        "experiment": experiment.key, "seed": experiment.seeds[0], "weights": tensors_digest(network.state_dict())[:12],
        "data_source": f"{runs.describe_source(manifest)}, {images} validation images",
    }  # fmt: skip
    cases = [(layer, *which) for layer in layers for which in ENGINES]
    return measure.in_parallel(lambda case: about | measure_layer(program, values, *case, count), cases, jobs, report)


def measure_layer(program: Program, values: dict, layer: str, kind: str, structure: str, count: int) -> dict:
    """layer, channel and COLUMNS of one engine; zero_rate is that of the trained planes: all of the layer's, or those of the constants."""
    operation = ternary_layer(program, layer)
    channel = median_channel(operation) if kind == "constant" else None
    planes = operation.planes if channel is None else operation.planes[:, channel]
    count = count if kind == "port" else measure.constant_vectors(count)
    vectors = layer_vectors(program, layer, values, count, structure=structure, channel=channel)
    sums, wrong = compare(*vectors[:4])
    mismatches = int((wrong | vectors.disagreeing(sums)).sum())
    zero_rate = round(float((planes == 0).double().mean()), 4)
    found = table.row(vectors.design, zero_rate, synthesise(vectors.design), count, mismatches)
    return {"layer": layer, "channel": "all" if channel is None else str(channel), **found}


def write(path, rows: list[dict]) -> None:
    """Put the rows of one experiment into the file, in the place of older ones of the same experiment; others stay as they are."""
    path, keys = Path(path), {row["experiment"] for row in rows}
    others = [row for row in table.read_trained(path)[0] if row["experiment"] not in keys] if path.exists() else []
    write_csv(path, others + rows, table.TRAINED_COLUMNS)
