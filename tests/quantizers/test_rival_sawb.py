"""SAWB: its published coefficients and the derived ones by the paper's regression, torch's fake quantization, error cases."""

import functools

import numpy as np
import pytest
import torch
from method_settings import settings_of
from scipy import stats

from dbq.errors import DbqError
from dbq.quantizers.sawb import COEFFICIENTS, SawbQuantizer

DISTRIBUTIONS = {  # the six of the paper, at unit scale: the regression is free of it
    "normal": stats.norm,
    "uniform": stats.uniform(-1, 2),
    "laplace": stats.laplace,
    "logistic": stats.logistic,
    "triangle": stats.triang(0.5, -1, 2),
    "von Mises": stats.vonmises(1),
}
QUANTILES = 4000  # that stand for a distribution


@functools.cache
def quantiles(name):
    """By interpolation between values of the distribution function: scipy's own inverse is slow for von Mises."""
    low, high = DISTRIBUTIONS[name].support()
    points = np.linspace(max(low, -20), min(high, 20), 40001)
    return np.interp((np.arange(QUANTILES) + 0.5) / QUANTILES, DISTRIBUTIONS[name].cdf(points), points)


def squared_error(weights, alpha, largest):
    step = alpha / largest
    return np.square(weights - np.clip(np.round(weights / step), -largest, largest) * step).mean()


def best_alpha(weights, largest):
    """By scans, each finer than the last."""
    low, high = 0.3 * np.abs(weights).mean(), np.abs(weights).max()
    for _ in range(3):
        grid = np.linspace(low, high, 60)
        best = grid[np.argmin([squared_error(weights, alpha, largest) for alpha in grid])]
        width = grid[1] - grid[0]
        low, high = best - width, best + width
    return best


def regression(bits):
    """(c1, c2) of alpha / E|w| = c1 * sqrt(E[w^2]) / E|w| - c2, fitted to the best alphas of the six distributions."""
    points = []
    for name in DISTRIBUTIONS:
        weights = quantiles(name)
        mean = np.abs(weights).mean()
        points.append((np.sqrt(np.square(weights).mean()) / mean, best_alpha(weights, 2 ** (bits - 1) - 1) / mean))
    slope, offset = np.polyfit(*zip(*points, strict=True), 1)
    return slope, -offset


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_the_regression_gives_the_coefficients(bits):
    """Published at 2 and 4 bits, where it comes within 3 and 2 % (6 % of c2 at 2 bits); at 3 bits it is where they come from."""
    c1, c2 = regression(bits)
    if bits == 3:
        assert COEFFICIENTS[3] == pytest.approx((c1, c2), rel=0.01)
    else:
        assert COEFFICIENTS[bits] == pytest.approx((c1, c2), rel=0.07)


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_the_error_is_near_the_least_one(bits, name):
    weights = quantiles(name)
    largest = 2 ** (bits - 1) - 1
    quantizer = SawbQuantizer(torch.tensor(weights)[None], settings_of("sawb", bits=bits))
    alpha = float(quantizer.step(torch.tensor(weights)[None])) * largest
    best = squared_error(weights, best_alpha(weights, largest), largest)
    assert squared_error(weights, alpha, largest) <= 1.25 * best


def test_8_bits_suit_bell_shaped_weights_and_clip_uniform_ones():
    """The published 8-bit coefficients: sharp for the normal and the Laplace distribution, while 18 % of a uniform one's range is lost."""
    clipped = {}
    for name in ("normal", "laplace", "uniform"):
        weights = torch.tensor(quantiles(name))[None]
        quantizer = SawbQuantizer(weights, settings_of("sawb", bits=8))
        assert name == "uniform" or float((quantizer(weights) - weights).square().mean() / weights.square().mean()) < 3e-4
        clipped[name] = 1 - float(quantizer.step(weights)) * 127 / float(weights.abs().max())
    assert clipped["uniform"] == pytest.approx(0.18, abs=0.01)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_agrees_with_the_formula_and_with_torch_fake_quantization(bits):
    weight = torch.randn(8, 40, generator=torch.Generator().manual_seed(bits))
    quantizer = SawbQuantizer(weight, settings_of("sawb", bits=bits))
    c1, c2 = COEFFICIENTS[bits]
    w, largest = weight.double().numpy(), 2 ** (bits - 1) - 1
    alpha = c1 * np.sqrt(np.square(w).mean()) - c2 * np.abs(w).mean()
    assert float(quantizer.step(weight)) * largest == pytest.approx(alpha, rel=1e-4)
    theirs = torch.fake_quantize_per_tensor_affine(weight, float(quantizer.step(weight)), 0, -largest, largest)
    assert torch.allclose(quantizer(weight), theirs, atol=1e-6)


def test_weights_of_equal_magnitude_have_no_8_bit_level():
    weight = torch.tensor([[1.0, -1.0, 1.0, -1.0]])
    with pytest.raises(DbqError, match=r"largest level is not positive.*uniform"):
        SawbQuantizer(weight, settings_of("sawb", bits=8))
    quantizer = SawbQuantizer(torch.randn(2, 9), settings_of("sawb", bits=8))
    with pytest.raises(DbqError, match=r"layer block\.conv1: SAWB's largest level"):
        quantizer.check(weight, "block.conv1")
