"""The closed-form backward pass against finite differences and autograd, in float64."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dbq.quantizers import branch_function, sigmoids
from dbq.quantizers.branch_function import one_layer
from dbq.quantizers.levels import levels_and_planes, midpoints, plane_values


def problem(branches, groups, seed):
    generator = torch.Generator().manual_seed(seed)
    w = torch.randn(4, 6, generator=generator, dtype=torch.float64)
    a = torch.tensor([0.9, 0.37, 0.11], dtype=torch.float64)[:branches].repeat(groups, 1)
    a = a * (1 + 0.1 * torch.rand(a.shape, generator=generator, dtype=torch.float64))
    g1, g2 = (torch.tensor(value, dtype=torch.float64) for value in (0.8, 1.3))
    temperature = torch.full((groups, 1), 4.0, dtype=torch.float64)
    return w, a, g1, g2, temperature


@pytest.mark.parametrize("branches", [1, 2, 3])
@pytest.mark.parametrize("groups", [1, 4])
def test_soft_gradient_equals_finite_differences(branches, groups):
    inputs = problem(branches, groups, branches)
    leaves = [value.clone().requires_grad_() for value in inputs[:4]]
    assert torch.autograd.gradcheck(lambda *x: one_layer(*x, inputs[4], False), leaves, atol=1e-6)


@pytest.mark.parametrize("branches", [1, 2, 3])
def test_forward_equals_the_formula_level_by_level(branches):
    w, a, g1, g2, temperature = problem(branches, 1, 7)
    levels = sorted(float(value) for value in plane_values(branches).double() @ a[0])
    for value, soft, hard in zip(
        w.flatten(),
        branch_function.soft(w, a, g1, g2, temperature).flatten(),
        branch_function.hard(w, a, g1, g2).flatten(),
        strict=True,
    ):
        expected_soft, expected_hard = levels[0], levels[0]
        for low, high in itertools.pairwise(levels):
            x = g1 * value - (low + high) / 2
            expected_soft += (high - low) * torch.sigmoid(4.0 * x)
            expected_hard += (high - low) * float(x >= 0)
        assert torch.isclose(soft, g2 * expected_soft)
        assert torch.isclose(hard, g2 * expected_hard)


@pytest.mark.parametrize("groups", [1, 4])
def test_hard_forward_gradient_is_the_surrogate(groups):
    """Reference: steps whose derivative is the sigmoid's, differentiated by autograd."""
    w, a, g1, g2, temperature = problem(2, groups, 3)

    def reference(w, a, g1, g2):
        values, _ = torch.sort(a @ plane_values(2).double().T, dim=1)
        result = values[:, :1].expand_as(w)
        for i in range(values.shape[1] - 1):
            x = g1 * w - ((values[:, i] + values[:, i + 1]) / 2)[:, None]
            soft = torch.sigmoid(temperature * x)
            step = soft + ((x >= 0).double() - soft).detach()
            result = result + (values[:, i + 1] - values[:, i])[:, None] * step
        return g2 * result

    gradients = []
    for function in (reference, lambda *x: one_layer(*x, temperature, True)):
        leaves = [value.clone().requires_grad_() for value in (w, a, g1, g2)]
        output = function(*leaves)
        gradients.append(torch.autograd.grad((output * torch.arange(24.0).view(4, 6).double()).sum(), leaves))
    for expected, actual in zip(*gradients, strict=True):
        assert torch.allclose(expected, actual, rtol=1e-9)


def test_soft_tends_to_hard_as_the_temperature_grows():
    w, a, g1, g2, _ = problem(2, 1, 5)
    hard = branch_function.hard(w, a, g1, g2)
    gaps = [(branch_function.soft(w, a, g1, g2, torch.full((1, 1), t, dtype=torch.float64)) - hard).abs().mean() for t in (5, 50, 5e3)]
    assert gaps[0] > gaps[1] > gaps[2]
    assert gaps[2] < 1e-3


@given(st.floats(0.05, 3), st.integers(1, 3))
@settings(deadline=None, max_examples=25)
def test_a_weight_on_a_threshold_takes_the_level_above(scale, branches):
    a = torch.tensor([[scale, scale / 3, scale / 9][:branches]])
    levels, _ = levels_and_planes(a)
    one = torch.tensor(1.0)
    assert torch.equal(branch_function.hard(midpoints(levels), a, one, one), levels[:, 1:])


@pytest.mark.parametrize("hard_forward", [False, True])
def test_no_tensor_per_level_is_saved_for_backward(hard_forward):
    w = torch.randn(50, 40, requires_grad=True)
    _, a, g1, g2, temperature = (value.float() for value in problem(3, 1, 0))
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: saved.append(tensor.nbytes) or tensor, lambda tensor: tensor):
        one_layer(w, a, g1, g2, temperature, hard_forward)
    assert w.nbytes <= sum(saved) < 1.4 * w.nbytes  # 26 thresholds


def test_blocks_do_not_change_the_result(monkeypatch):
    w, a, g1, g2, temperature = problem(2, 1, 4)
    results = []
    for size in (1 << 17, 40):
        monkeypatch.setattr(sigmoids, "BLOCK", size)
        leaves = [value.clone().requires_grad_() for value in (w, a, g1, g2)]
        output = one_layer(*leaves, temperature, False)
        results.append([output, *torch.autograd.grad(output.square().sum(), leaves)])
    assert all(torch.allclose(one, other, rtol=1e-12) for one, other in zip(*results, strict=True))


def test_both_ways_to_sum_by_level_agree():
    generator = torch.Generator().manual_seed(0)
    grad = torch.randn(6, 50, generator=generator, dtype=torch.float64)
    index = torch.randint(0, 9, (6, 50), generator=generator, dtype=torch.uint8)
    rows = torch.tensor([0, 0, 1, 1, 1, 2])
    expected = torch.zeros(3, 9, dtype=torch.float64)
    for row in range(6):
        for column in range(50):
            expected[int(rows[row]), int(index[row, column])] += grad[row, column]
    assert torch.allclose(branch_function.sums_by_adding(index, grad, rows, 3, 9), expected)
    assert torch.allclose(branch_function.sums_by_masks(index, grad, rows, 3, 9), expected)
