"""The batched loader against a slow reference that handles one image at a time."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dbq.datasets.arrays import Split
from dbq.datasets.loader import Batches

MEAN, STD = [0.3, 0.5, 0.4], [0.2, 0.25, 0.3]


def random_split(count=50, height=7, width=7, seed=0):
    generator = np.random.default_rng(seed)
    images = generator.integers(1, 256, (count, 3, height, width), np.uint8)
    images[:, 0, 0, 0] = np.arange(count) % 255 + 1  # tells images apart
    return Split(torch.from_numpy(images), torch.from_numpy(generator.integers(0, 10, count)))


def normalise(image):
    """(3, H, W) uint8 array -> float64, by the definition."""
    return (image / 255 - np.array(MEAN)[:, None, None]) / np.array(STD)[:, None, None]


def variants(image, pad, flip):
    """Every crop of the zero-padded image, mirrored and not, one by one."""
    _, height, width = image.shape
    padded = np.zeros((3, height + 2 * pad, width + 2 * pad), np.uint8)
    padded[:, pad : pad + height, pad : pad + width] = image
    for top in range(2 * pad + 1):
        for left in range(2 * pad + 1):
            crop = padded[:, top : top + height, left : left + width]
            yield (top, left, False), crop
            if flip:
                yield (top, left, True), crop[:, :, ::-1]


def collect(batches):
    pairs = [(images.clone(), labels.clone()) for images, labels in batches]
    return torch.cat([images for images, _ in pairs]), torch.cat([labels for _, labels in pairs])


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 3), st.booleans(), st.integers(0, 1000), st.sampled_from([(7, 7), (5, 6)]))
def test_every_augmented_image_is_a_crop_of_its_own_image(pad, flip, seed, size):
    split = random_split(24, *size)
    images, labels = collect(Batches(split, 8, MEAN, STD, augment=SimpleNamespace(pad=pad, flip=flip)).epoch(seed))
    reference = [(index, normalise(crop)) for index in range(24) for _, crop in variants(split.images[index].numpy(), pad, flip)]
    stack = np.stack([crop for _, crop in reference])
    seen = set()
    for image, label in zip(images.numpy(), labels.tolist(), strict=True):
        matches = {reference[hit][0] for hit in np.flatnonzero(np.abs(stack - image).max((1, 2, 3)) < 1e-5)}
        assert matches, "not a crop of any image"
        assert any(int(split.labels[index]) == label for index in matches)
        seen |= matches
    assert seen == set(range(24))


def test_all_offsets_and_flips_are_drawn_evenly():
    split = random_split(1)
    split = Split(split.images.expand(4000, -1, -1, -1).contiguous(), split.labels.expand(4000).contiguous())
    images, _ = collect(Batches(split, 500, MEAN, STD, augment=SimpleNamespace(pad=1, flip=True)).epoch(3))
    counts = []
    for _, crop in variants(split.images[0].numpy(), 1, True):
        counts.append(int((np.abs(images.numpy() - normalise(crop)).max((1, 2, 3)) < 1e-5).sum()))
    assert sum(counts) == 4000
    expected = 4000 / 18
    assert sum((count - expected) ** 2 / expected for count in counts) < 40.8  # chi squared, 17 degrees of freedom, p = 0.001


def test_padding_is_black_before_normalisation():
    split = Split(torch.full((64, 3, 4, 4), 255, dtype=torch.uint8), torch.zeros(64, dtype=torch.long))
    images, _ = collect(Batches(split, 64, MEAN, STD, augment=SimpleNamespace(pad=2, flip=False)).epoch(0))
    for channel in range(3):
        values = np.unique(images[:, channel].numpy().round(4))
        black, white = (0 - MEAN[channel]) / STD[channel], (1 - MEAN[channel]) / STD[channel]
        assert np.allclose(values, [black, white], atol=1e-3)


def test_the_same_seed_gives_the_same_batches_whatever_happened_before():
    augment = SimpleNamespace(pad=2, flip=True)
    first = Batches(random_split(), 8, MEAN, STD, augment)
    wanted = collect(first.epoch(5))
    torch.manual_seed(99)
    torch.rand(17)
    list(first.epoch(4))
    unfinished = first.epoch(6)
    next(unfinished)
    again, fresh = collect(first.epoch(5)), collect(Batches(random_split(), 8, MEAN, STD, augment).epoch(5))
    for images, labels in (again, fresh):
        assert torch.equal(images, wanted[0]) and torch.equal(labels, wanted[1])
    assert not torch.equal(collect(first.epoch(6))[0], wanted[0])


def test_the_global_generator_is_left_alone():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    list(Batches(random_split(), 8, MEAN, STD, SimpleNamespace(pad=2, flip=True)).epoch(5))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("augment", [None, SimpleNamespace(pad=2, flip=True)])
def test_in_order_is_every_image_unchanged(augment):
    split = random_split()
    images, labels = collect(Batches(split, 8, MEAN, STD, augment).in_order())
    assert torch.equal(labels, split.labels)
    assert np.allclose(images.numpy(), np.stack([normalise(image) for image in split.images.numpy()]), atol=1e-5)


@pytest.mark.parametrize(
    "count, batch_size, sizes",
    [(50, 8, [8] * 6), (48, 8, [8] * 6), (5, 8, [5])],
)
def test_lengths(count, batch_size, sizes):
    batches = Batches(random_split(count), batch_size, MEAN, STD)
    assert [len(labels) for _, labels in batches.epoch(0)] == sizes
    assert len(batches) == len(sizes) and batches.images_per_epoch == sum(sizes)
    assert sum(len(labels) for _, labels in batches.in_order()) == count


@pytest.mark.parametrize("augment", [None, SimpleNamespace(pad=1, flip=True)])
def test_memory_format_and_types(augment):
    batches = Batches(random_split(), 8, MEAN, STD, augment)
    for run in (batches.epoch(0), batches.in_order()):
        images, labels = next(run)
        assert images.shape == (8, 3, 7, 7) and images.dtype == torch.float32 and labels.dtype == torch.int64
        assert images.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    "split", [Split(torch.zeros(4, 3, 2, 2), torch.zeros(4)), Split(torch.zeros(4, 3, 2, 2, dtype=torch.uint8), torch.zeros(3))]
)
def test_arrays_that_are_no_split(split):
    with pytest.raises(ValueError):
        Batches(split, 2, MEAN, STD)
