"""What quantization costs per training step, as a ratio to the float step measured in the same interleaved run.

python -m dbq.benchmark step     # 20 s on 2 CPU cores; ResNet-20 gave 1.09 (1 branch), 1.13 (2) and 1.2 (3) there
"""

import argparse
import statistics
import time

import torch
from torch.nn import functional

from dbq import config, networks, policies
from dbq.errors import main_with_errors
from dbq.training import optimiser

WARMUP_STEPS = 3


def measure(params: dict, experiments: list[str], profile: str, batch_size: int, steps: int) -> dict[str, list[float]]:
    """Seconds of each step of the float network ("float") and of each experiment, one step of each in turn."""
    first = config.experiment(params, profile, experiments[0])
    size = 32 if first.dataset_config.form == "32x32" else 224
    images = torch.randn(batch_size, 3, size, size).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, first.dataset_config.classes, (batch_size,))
    trainees = {}
    for name in ("float", *experiments):
        torch.manual_seed(0)
        entry = first if name == "float" else config.experiment(params, profile, name)
        network = networks.build(entry.network, entry.dataset_config.classes, entry.dataset_config.form).to(
            memory_format=torch.channels_last
        )
        if name != "float":
            policies.quantize(network, entry, images[:64])
        trainees[name] = (network.train(), optimiser.build(network, entry.training))
    seconds = {name: [] for name in trainees}
    for index in range(WARMUP_STEPS + steps):
        for name, (network, sgd) in trainees.items():
            started = time.perf_counter()
            loss = functional.cross_entropy(network(images), labels)
            sgd.zero_grad()
            loss.backward()
            sgd.step()
            if index >= WARMUP_STEPS:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def main():
    parser = argparse.ArgumentParser(prog="python -m dbq.benchmark", description=__doc__)
    parser.add_argument("what", choices=["step"])
    parser.add_argument(
        "--experiments", nargs="+", default=["resnet20-cifar10-dbq-1t", "resnet20-cifar10-dbq-2t", "resnet20-cifar10-dbq-3t"]
    )
    parser.add_argument("--profile", default="smoke", help="whose settings are used; the images are random and of the form's size")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=15)
    arguments = parser.parse_args()
    seconds = measure(config.read(), arguments.experiments, arguments.profile, arguments.batch_size, arguments.steps)
    print(
        f"batch {arguments.batch_size}, {arguments.steps} steps of each in turn, "
        f"{torch.get_num_threads()} threads, torch {torch.__version__}"
    )
    for name, values in seconds.items():
        # each step is compared with the float step beside it: the machine's speed drifts
        ratios = [value / base for value, base in zip(values, seconds["float"], strict=True)]
        print(f"{name:32s} median {statistics.median(values) * 1e3:7.1f} ms  ratio to float: median {statistics.median(ratios):.3f}")


if __name__ == "__main__":
    raise SystemExit(main_with_errors(main))
