"""TWN and TTQ against loops over single weights, brute force and finite differences."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from method_settings import settings_of

from dbq.quantizers.ttq import TrainedTernary, TtqQuantizer
from dbq.quantizers.twn import TwnQuantizer

integers = st.lists(st.lists(st.integers(-9, 9), min_size=6, max_size=6), min_size=1, max_size=4).filter(lambda rows: any(map(any, rows)))


def twn_by_loops(rows):
    """One filter after the other, in Python numbers."""
    result = []
    for row in rows:
        threshold = 0.75 * sum(map(abs, row)) / len(row)
        kept = [abs(value) for value in row if abs(value) > threshold]
        scale = sum(kept) / len(kept) if kept else 0.0
        result.append([scale * np.sign(value) if abs(value) > threshold else 0.0 for value in row])
    return torch.tensor(result, dtype=torch.float64)


@given(integers)
@settings(deadline=None, max_examples=50)
def test_twn_is_its_definition(rows):
    weight = torch.tensor(rows, dtype=torch.float64)
    assert torch.allclose(TwnQuantizer(weight, settings_of("twn"))(weight), twn_by_loops(rows))
    flat = [[value for row in rows for value in row]]
    assert torch.allclose(TwnQuantizer(weight, settings_of("twn", scales="layer"))(weight).reshape(1, -1), twn_by_loops(flat))


def test_twn_scale_is_the_least_squares_one_for_its_planes():
    weight = torch.randn(1, 400, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    quantizer = TwnQuantizer(weight, settings_of("twn"))
    parts = quantizer.decompose(weight)
    errors = [((weight - scale * parts.planes[0]) ** 2).sum() for scale in np.linspace(0.01, 3, 3000)]
    assert ((weight - quantizer(weight)) ** 2).sum() <= min(errors) + 1e-9


def test_twn_threshold_is_near_the_best_one_for_normal_weights():
    """Why 0.75 mean |w|: for normal weights the best threshold is about 0.6 standard deviations (Li et al. 2016)."""
    weight = torch.randn(1, 20000, generator=torch.Generator().manual_seed(4))

    def error(threshold):
        kept = weight.abs() > threshold
        scale = weight.abs()[kept].mean()
        return float((weight - scale * weight.sign() * kept).square().mean())

    best = min(error(threshold) for threshold in np.linspace(0.2, 1.2, 51))
    assert float((weight - TwnQuantizer(weight, settings_of("twn", scales="layer"))(weight)).square().mean()) <= 1.005 * best


@pytest.mark.parametrize("method", ["twn", "ttq"])
def test_a_weight_on_the_threshold_is_zero_everywhere(method):
    if method == "twn":
        weight = torch.tensor([[3.0, -3.0, 4.0, -6.0]])  # mean 4, threshold 3
        quantizer = TwnQuantizer(weight, settings_of("twn"))
    else:
        weight = torch.tensor([[4.0, -4.0, 8.0, -5.0]])
        quantizer = TtqQuantizer(weight, settings_of("ttq", threshold=0.5))
    assert quantizer(weight)[0, :2].tolist() == [0, 0]
    assert not quantizer.decompose(weight).planes[:, 0, :2].any()
    assert quantizer(weight)[0, 2:].abs().min() > 0


@given(st.integers(0, 1000), st.sampled_from([0.05, 0.2, 0.5]), st.booleans())
@settings(deadline=None, max_examples=25)
def test_ttq_values_and_gradients_are_those_of_the_paper(seed, fraction, scaled):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(3, 8, dtype=torch.float64, generator=generator, requires_grad=True)
    quantizer = TtqQuantizer(weight, settings_of("ttq", threshold=fraction, gradient_scale="lsq" if scaled else "none"))
    with torch.no_grad():
        quantizer.positive.fill_(1.7)
        quantizer.negative.fill_(0.4)
    grad = torch.randn(3, 8, dtype=torch.float64, generator=generator)
    quantized = quantizer(weight)
    quantized.backward(grad)
    threshold = fraction * max(abs(value) for value in weight.flatten().tolist())
    sums = {"positive": 0.0, "negative": 0.0}
    for w, q, g, through in zip(
        weight.flatten().tolist(), quantized.flatten().tolist(), grad.flatten().tolist(), weight.grad.flatten().tolist(), strict=True
    ):
        if w > threshold:
            sums["positive"] += g
            assert (q, through) == pytest.approx((1.7, 1.7 * g))
        elif w < -threshold:
            sums["negative"] -= g
            assert (q, through) == pytest.approx((-0.4, 0.4 * g))
        else:
            assert (q, through) == pytest.approx((0.0, g))
    factor = 24**-0.5 if scaled else 1.0
    assert float(quantizer.positive.grad) == pytest.approx(factor * sums["positive"])
    assert float(quantizer.negative.grad) == pytest.approx(factor * sums["negative"])


def test_ttq_scale_gradients_against_finite_differences():
    weight = torch.randn(5, 7, dtype=torch.float64)
    threshold = torch.tensor(0.3, dtype=torch.float64)
    scales = torch.tensor([0.9, 0.6], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda both: TrainedTernary.apply(weight, both[0], both[1], threshold, 1.0), scales)


def test_ttq_starts():
    weight = torch.tensor([[0.01, 0.5, 0.7, -0.2], [-0.4, 1.0, -0.01, 0.0]])
    quantizer = TtqQuantizer(weight, settings_of("ttq"))
    assert quantizer.positive.item() == pytest.approx((0.5 + 0.7 + 1.0) / 3)
    assert quantizer.negative.item() == pytest.approx((0.2 + 0.4) / 2)
    quantizer = TtqQuantizer(weight, settings_of("ttq", initial="one"))
    assert (quantizer.positive.item(), quantizer.negative.item()) == (1.0, 1.0)
    one_sided = TtqQuantizer(weight.abs(), settings_of("ttq"))
    assert one_sided.negative.item() == one_sided.positive.item()
