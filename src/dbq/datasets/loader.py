"""Batches from images that lie on the device as uint8: shuffled, cropped, flipped and normalised there, a whole batch at a time.

Every random number of an epoch is drawn on the CPU, once, from a generator of its own: the same seed gives the same batches on any
device, whatever was drawn before.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

from dbq.datasets.arrays import Split


class Batches:
    """Iterates over one split.

    split: images (N, 3, H, W) uint8, labels (N,) int64. mean, std: 3 numbers each, of [0, 1] pixels. augment.pad: pixels of zero
    (black) around the image before a random crop of the old size; augment.flip: mirror half of the images. A shuffled epoch leaves out its
    last, smaller batch, because batch norm on a few images is noise; a split below one batch is one batch. Images are channels_last.
    """

    def __init__(self, split: Split, batch_size: int, mean, std, augment=None, device="cpu"):
        if split.images.dtype != torch.uint8 or split.images.ndim != 4 or len(split.images) != len(split.labels) or len(split.labels) == 0:
            raise ValueError(f"images {split.images.dtype} {tuple(split.images.shape)}, labels {tuple(split.labels.shape)}")
        self.batch_size = batch_size
        self.pad, self.flip = (augment.pad, augment.flip) if augment else (0, False)
        self.count, _, self.height, self.width = split.images.shape
        self.images_per_epoch = self.count - self.count % batch_size if self.count >= batch_size else self.count
        self.device = torch.device(device)
        padded = functional.pad(split.images.to(self.device), (self.pad,) * 4)
        # (N, H + 2 pad, W + 2 pad, 3): the three bytes of a pixel move together, and the batch is channels_last without a copy
        self.images = padded.permute(0, 2, 3, 1).contiguous()
        self.labels = split.labels.to(self.device)
        deviation = torch.tensor(std, dtype=torch.float64)
        self.scale = (1 / (255 * deviation)).float().to(self.device)
        self.shift = (-torch.tensor(mean, dtype=torch.float64) / deviation).float().to(self.device)

    def __len__(self) -> int:
        """Batches in a shuffled epoch."""
        return math.ceil(self.images_per_epoch / self.batch_size)

    def epoch(self, generator_seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Shuffled, augmented (images (B, 3, H, W) float32, labels (B,) int64)."""
        generator = torch.Generator().manual_seed(generator_seed)
        order = torch.randperm(self.count, generator=generator)[: self.images_per_epoch].to(self.device)
        offsets = torch.randint(0, 2 * self.pad + 1, (2, self.count), generator=generator)[:, : self.images_per_epoch].to(self.device)
        flips = torch.randint(0, 2, (self.count,), generator=generator)[: self.images_per_epoch].bool().to(self.device)
        for first in range(0, self.images_per_epoch, self.batch_size):
            part = slice(first, first + self.batch_size)
            picks = order[part]
            moved = self.pad or self.flip
            images = self._crop(picks, offsets[0, part], offsets[1, part], flips[part]) if moved else self.images[picks]
            yield self._normalise(images), self.labels[picks]

    def in_order(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Every image once, as it lies in the split, neither shuffled nor augmented; the last batch may be smaller."""
        rows, columns = slice(self.pad, self.pad + self.height), slice(self.pad, self.pad + self.width)
        for first in range(0, self.count, self.batch_size):
            part = slice(first, first + self.batch_size)
            yield self._normalise(self.images[part, rows, columns]), self.labels[part]

    def _crop(self, picks: Tensor, tops: Tensor, lefts: Tensor, flips: Tensor) -> Tensor:
        """(B, H, W, 3) uint8: image picks[b] cropped at (tops[b], lefts[b]) and mirrored where flips[b]; one gather."""
        padded_height, padded_width = self.images.shape[1:3]
        across = torch.arange(self.width, device=self.device)
        columns = across + lefts[:, None]  # (B, W)
        if self.flip:
            columns = torch.where(flips[:, None], self.width - 1 - across, across) + lefts[:, None]
        rows = torch.arange(self.height, device=self.device) + tops[:, None]  # (B, H)
        pixels = ((picks * padded_height)[:, None] + rows)[:, :, None] * padded_width + columns[:, None, :]
        return self.images.view(-1, 3).index_select(0, pixels.view(-1)).view(*pixels.shape, 3)

    def _normalise(self, images: Tensor) -> Tensor:
        return torch.addcmul(self.shift, images.float(), self.scale).permute(0, 3, 1, 2)
