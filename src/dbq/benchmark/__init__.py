"""What quantization costs in training: seconds of a step and peak memory, as ratios to the float network."""

from dbq.benchmark.overhead import measure_overhead, write

__all__ = ["measure_overhead", "write"]
