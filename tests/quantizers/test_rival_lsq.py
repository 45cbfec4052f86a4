"""LSQ against torch's own learnable fake quantization, autograd through a straight-through round, and error cases."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from method_settings import settings_of

from dbq.quantizers.lsq import LearntStep, LsqQuantizer


def grid(bits, levels):
    largest = 2 ** (bits - 1) - 1
    return -largest - (levels == "full"), largest


cases = given(st.integers(0, 1000), st.integers(2, 8), st.sampled_from(["symmetric", "full"]), st.floats(0.2, 3.0))


@cases
@settings(deadline=None, max_examples=40)
def test_values_and_gradients_through_a_straight_through_round(seed, bits, levels, factor):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(4, 30, dtype=torch.float64, generator=generator, requires_grad=True)
    grad = torch.randn(4, 30, dtype=torch.float64, generator=generator)
    quantizer = LsqQuantizer(weight, settings_of("lsq", bits=bits, levels=levels))
    low, high = grid(bits, levels)
    start = 2 * weight.detach().abs().mean() / high**0.5
    assert torch.equal(quantizer.s.detach(), start)
    with torch.no_grad():
        quantizer.s.mul_(factor)  # so that some weights are clipped, or none
    quantized = quantizer(weight)
    quantized.backward(grad)

    other, step = weight.detach().clone().requires_grad_(), quantizer.s.detach().clone().requires_grad_()
    v = (other / step).clamp(low, high)
    expected = ((v.round() - v).detach() + v) * step
    expected.backward(grad)
    assert torch.allclose(quantized, expected)
    assert torch.allclose(weight.grad, other.grad)
    assert float(quantizer.s.grad) == pytest.approx(float(step.grad) / (high * 120) ** 0.5, rel=1e-9, abs=1e-12)


@cases
@settings(deadline=None, max_examples=25)
def test_agrees_with_torch_learnable_fake_quantization(seed, bits, levels, factor):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(4, 30, generator=generator, requires_grad=True)
    grad = torch.randn(4, 30, generator=generator)
    low, high = grid(bits, levels)
    step = (factor * 2 * weight.detach().abs().mean() / high**0.5).requires_grad_()
    quantized = LearntStep.apply(weight, step, low, high, 1.0)
    quantized.backward(grad)

    other, scale = weight.detach().clone().requires_grad_(), step.detach().reshape(1).clone().requires_grad_()
    theirs = torch._fake_quantize_learnable_per_tensor_affine(other, scale, torch.zeros(1), low, high, 1.0)
    theirs.backward(grad)
    assert torch.allclose(quantized, theirs, rtol=1e-5, atol=1e-6)
    # they round w / s before they ask whether it lies on the grid: a weight less than half a step outside differs
    clear = ((weight / step).round().clamp(low, high) == (weight / step).round()) == ((weight / step >= low) & (weight / step <= high))
    assert torch.allclose(weight.grad[clear], other.grad[clear])
    if clear.all():
        assert float(step.grad) == pytest.approx(float(scale.grad), rel=1e-4, abs=1e-4)


def test_ties_take_the_even_integer():
    weight = torch.tensor([[0.5, 1.5, -0.5, -1.5, 2.5, 9.0]])
    quantizer = LsqQuantizer(weight, settings_of("lsq", bits=3))
    with torch.no_grad():
        quantizer.s.fill_(1.0)
    assert quantizer(weight).tolist() == [[0, 2, 0, -2, 2, 3]]
    assert quantizer.integers(weight).tolist() == [[0, 2, 0, -2, 2, 3]]
