"""Sums of sigmoids over thresholds, some rows of weights at a time: N-1 sigmoids a weight would fill the memory for all rows at once."""

from torch import Tensor

BLOCK = 1 << 19  # elements of a (rows, N-1, K) temporary: 2 MiB of float32, about a processor's cache


def blocks(w: Tensor, per_threshold: Tensor, *others: Tensor):
    """Cuts tensors into blocks of rows: yields (slice, rows of w, rows of per_threshold, rows of the others ..).

    w: (R, K). per_threshold: (R, N-1, ..); its second axis says how many thresholds there are. A block is so small that its
    (rows, N-1, K) temporaries stay in the processor's cache. On a GPU all rows are one block.
    """
    height = max(1, BLOCK // (per_threshold.shape[1] * w.shape[1])) if w.device.type == "cpu" else len(w)
    parts = [slice(start, start + height) for start in range(0, len(w), height)]
    return zip(parts, *(tensor.split(height) for tensor in (w, per_threshold, *others)), strict=True)


def sigmoids(w: Tensor, slopes: Tensor, offsets: Tensor) -> Tensor:
    """sigmoid(slope * w - offset_i) (R, N-1, K) of weights (R, K); slopes (R, 1) and offsets (R, N-1), or one row for all."""
    return (slopes * w)[:, None].sub(offsets[:, :, None]).sigmoid_()
