"""Seconds of training steps, each compared with the float steps right before and after it.

The speed of a machine drifts by more than a quantizer costs, so ratios of totals mean nothing. One round is

    float, first, float, second, float, ..

and a step's ratio is its time over the mean of its two float neighbours, in which a linear drift cancels.
"""

import statistics
import time
from collections.abc import Callable

import torch

WARMUP_ROUNDS = 3


def clock_of(device: str) -> Callable[[], float]:
    """Seconds; on a GPU after everything that was queued."""
    if not device.startswith("cuda"):
        return time.perf_counter

    def clock() -> float:
        torch.cuda.synchronize(device)
        return time.perf_counter()

    return clock


def paired_steps(
    reference: Callable[[], None],
    subjects: dict[str, Callable[[], None]],
    steps: int,
    clock: Callable[[], float],
    warmup: int = WARMUP_ROUNDS,
) -> dict[str, list[tuple[float, float]]]:
    """Per subject and step (its seconds, mean seconds of the reference's steps before and after it)."""
    pairs = {name: [] for name in subjects}

    def seconds(step) -> float:
        started = clock()
        step()
        return clock() - started

    for index in range(warmup + steps):
        before = seconds(reference)
        for name, step in subjects.items():
            own = seconds(step)
            after = seconds(reference)
            if index >= warmup:
                pairs[name].append((own, (before + after) / 2))
            before = after
    return pairs


def quartiles(pairs: list[tuple[float, float]]) -> tuple[float, float, float]:
    """First quartile, median and third quartile of the ratios of two or more pairs."""
    return tuple(statistics.quantiles([own / reference for own, reference in pairs], n=4, method="inclusive"))
