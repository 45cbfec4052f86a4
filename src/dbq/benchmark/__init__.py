"""What quantization costs in training: seconds of a step and peak memory, as ratios to the float network."""

from dbq.benchmark.measure import COLUMNS, overhead, step, write

__all__ = ["COLUMNS", "overhead", "step", "write"]
