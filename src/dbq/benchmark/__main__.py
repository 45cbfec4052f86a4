"""What quantization costs per training step, as a ratio to the float steps around it in the same interleaved run.

python -m dbq.benchmark step                       # of three experiments, by time alone: 20 s on 2 CPU cores
python -m dbq.benchmark overhead --out FOLDER      # every quantizer, time and memory: FOLDER/overhead.csv
"""

import argparse
import dataclasses
import statistics

import torch

from dbq.benchmark import overhead, subjects, timing
from dbq.errors import main_with_errors
from dbq.settings import networks
from dbq.settings import resolve as config


def measure(params: dict, experiments: list[str], profile: str, batch_size: int, steps: int) -> dict[str, list[tuple[float, float]]]:
    """(seconds, seconds of the float steps around it) of each step of each experiment, on the float network of the first one."""
    entries = {name: config.experiment(params, profile, name) for name in experiments}
    first = entries[experiments[0]]
    size = 32 if first.dataset_settings.form == "32x32" else 224
    batch = subjects.random_batch(batch_size, "cpu", size, first.dataset_settings.classes)
    trainees = {name: subjects.quantized_trainee(entry, *batch) for name, entry in entries.items()}
    return timing.paired_steps(subjects.float_trainee(first, *batch), trainees, steps, timing.clock_of("cpu"))


def step(arguments) -> None:
    batch_size, steps = arguments.batch_size or 128, arguments.steps or 15
    pairs = measure(config.read(), arguments.experiments, arguments.profile or "cifar10", batch_size, steps)
    print(f"batch {batch_size}, {steps} steps of each in turn, {torch.get_num_threads()} threads, torch {torch.__version__}")
    reference = statistics.median(seconds for values in pairs.values() for _, seconds in values)
    print(f"{'float':32s} median {reference * 1e3:7.1f} ms")
    for name, values in pairs.items():
        own = statistics.median(seconds for seconds, _ in values)
        print(f"{name:32s} median {own * 1e3:7.1f} ms  ratio to float: median {timing.quartiles(values)[1]:.3f}")


def all_overheads(arguments) -> None:
    params, profile = config.read(), arguments.profile or "cifar10"
    names = ("networks", "methods", "batch_size", "steps")
    changes = {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}
    if arguments.no_memory:
        changes["memory"] = False
    settings = dataclasses.replace(config.overhead(params, profile), **changes)
    overhead.measure_overhead(params, profile, settings, arguments.device, done=lambda rows: overhead.write(rows, arguments.out))


def at_least_two(text: str) -> int:
    value = int(text)
    if value < 2:
        raise argparse.ArgumentTypeError("at least 2")
    return value


def main():
    parser = argparse.ArgumentParser(
        prog="python -m dbq.benchmark", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )  # fmt: skip
    commands = parser.add_subparsers(required=True, metavar="step|overhead")
    for name, run in (("step", step), ("overhead", all_overheads)):
        command = commands.add_parser(name)
        command.set_defaults(run=run)
        command.add_argument("--profile", choices=config.PROFILES, help="whose settings are used; the images are random")
        command.add_argument("--batch-size", type=at_least_two)
        command.add_argument("--steps", type=at_least_two)
        if name == "step":
            keys = [f"resnet20-cifar10-dbq-{branches}t" for branches in (1, 2, 3)]
            command.add_argument("--experiments", nargs="+", default=keys)
            continue
        command.add_argument("--out", required=True, help="folder of overhead.csv and metrics.json")
        command.add_argument("--networks", nargs="+", metavar="NAME", help=", ".join(networks.NAMES))
        command.add_argument("--methods", nargs="+", metavar="NAME", help=", ".join(subjects.SUBJECTS))
        command.add_argument("--device", default="cpu", help="cpu or cuda")
        command.add_argument("--no-memory", action="store_true", help="step times only")
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    raise SystemExit(main_with_errors(main))
