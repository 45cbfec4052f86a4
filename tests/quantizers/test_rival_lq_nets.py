"""LQ-Nets against numpy's least squares, brute force over the basis, and its closed form with one branch."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from method_settings import settings_of

from dbq.errors import DbqError
from dbq.quantizers.levels import BINARY, assign, midpoints, sorted_levels
from dbq.quantizers.lq_nets import LqNetsQuantizer, fitted_basis, least_squares_basis, planes_of


def weights(seed, rows=3, length=40):
    return torch.randn(rows, length, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def quantizer_with(basis, weight, scales="layer"):
    quantizer = LqNetsQuantizer(weight, settings_of("lq_nets", branches=len(basis[0]), scales=scales))
    quantizer.basis.copy_(torch.tensor(basis))
    return quantizer


@given(st.lists(st.integers(-20, 20), min_size=1, max_size=4))
@settings(deadline=None, max_examples=50)
def test_levels_are_all_sums_of_plus_and_minus_the_basis(numbers):
    levels, codes = sorted_levels(torch.tensor([numbers], dtype=torch.float64), BINARY)
    signs = list(itertools.product((-1, 1), repeat=len(numbers)))
    assert levels[0].tolist() == sorted(sum(s * b for s, b in zip(sign, numbers, strict=True)) for sign in signs)
    assert (codes[0] @ torch.tensor(numbers, dtype=torch.float64)).tolist() == levels[0].tolist()


@given(st.integers(0, 1000), st.integers(1, 4))
@settings(deadline=None, max_examples=25)
def test_each_weight_takes_its_nearest_level(seed, branches):
    weight = weights(seed)
    quantizer = LqNetsQuantizer(weight, settings_of("lq_nets", branches=branches)).eval()
    for row, basis, quantized in zip(weight, quantizer.basis.numpy(), quantizer(weight), strict=True):
        levels = np.array([np.dot(sign, basis) for sign in itertools.product((-1, 1), repeat=branches)])
        nearest = levels[np.abs(row.numpy()[:, None] - levels).argmin(1)]
        assert np.allclose(nearest, quantized.numpy())


@given(st.integers(0, 1000), st.integers(1, 4))
@settings(deadline=None, max_examples=25)
def test_the_basis_solves_the_least_squares_problem_of_its_planes(seed, branches):
    weight = weights(seed)
    basis = torch.rand(3, branches, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    levels, codes = sorted_levels(basis, BINARY)
    index = assign(weight, midpoints(levels))
    solved = least_squares_basis(weight, basis, codes, index)
    for group in range(3):
        planes = np.stack([plane[group].numpy() for plane in planes_of(codes, index)], 1)
        if np.linalg.matrix_rank(planes) == branches:
            expected = np.linalg.lstsq(planes, weight[group].numpy(), rcond=None)[0]
            assert np.allclose(solved[group], expected, rtol=1e-3, atol=1e-3)  # the ridge of the authors' code is 1e-4


def test_planes_that_coincide_leave_the_basis_finite():
    weight = torch.tensor([[2.0, 2.0, -2.0, -2.0]])
    quantizer = quantizer_with([[1.0, 1.0]], weight)
    quantizer.train()(weight)
    assert torch.allclose(quantizer.basis, torch.tensor([[1.0, 1.0]]), atol=1e-3)


def test_one_branch_is_the_mean_magnitude():
    """min over b of |w - b sign(w)|^2 is b = mean |w| (XNOR-Net's scale)."""
    weight = weights(1)
    assert torch.allclose(fitted_basis(weight, 1), weight.abs().mean(1, keepdim=True), rtol=1e-4)


@pytest.mark.parametrize("seed", range(4))
def test_the_start_is_near_the_best_basis_by_brute_force(seed):
    weight = weights(seed, 1, 300)
    grid = np.linspace(0.02, 2.0, 100)

    def error(basis):
        levels = np.sort([np.dot(sign, basis) for sign in itertools.product((-1, 1), repeat=2)])
        return np.square(weight.numpy()[0][:, None] - levels).min(1).mean()

    best = min(error(basis) for basis in itertools.product(grid, grid) if basis[0] <= basis[1])
    assert error(fitted_basis(weight, 2)[0].numpy()) <= 1.02 * best


def test_a_training_step_moves_the_basis_a_tenth_of_the_way():
    weight = weights(2).float()
    quantizer = quantizer_with([[0.3, 0.9]] * 3, weight, "channel").train()
    before = quantizer.basis.clone()
    levels, codes = sorted_levels(before, BINARY)
    target = least_squares_basis(weight, before, codes, assign(weight, midpoints(levels)))
    quantized = quantizer(weight)
    assert torch.allclose(quantizer.basis, 0.9 * before + 0.1 * target, atol=1e-6)
    assert set(quantized[0].tolist()) <= set(levels[0].tolist())  # the step itself still uses the old basis


def test_evaluation_and_passes_without_gradients_leave_the_basis_alone():
    weight = weights(3).float()
    quantizer = quantizer_with([[0.3, 0.9]], weight)
    before = quantizer.basis.clone()
    quantizer.eval()(weight)
    with torch.no_grad():
        quantizer.train()(weight)
    assert torch.equal(quantizer.basis, before)


def test_training_passes_converge_to_a_fixed_point_of_the_alternation():
    weight = weights(4, 1, 500).float()
    quantizer = quantizer_with([[0.1, 1.5]], weight).train()
    for _ in range(300):
        quantizer(weight)
    levels, codes = sorted_levels(quantizer.basis, BINARY)
    target = least_squares_basis(weight, quantizer.basis, codes, assign(weight, midpoints(levels)))
    assert torch.allclose(quantizer.basis, target, atol=1e-3)


def test_a_negative_basis_gives_positive_scales_and_the_same_weights():
    weight = weights(7).float()
    quantizer = quantizer_with([[-0.3, 0.9]], weight).eval()
    parts = quantizer.decompose(weight)
    assert (parts.scales > 0).all()
    assert torch.equal(sum(parts.scales[:, j, None] * parts.planes[j] for j in range(2)), quantizer(weight))


def test_a_weight_on_a_threshold_takes_the_level_above():
    weight = torch.tensor([[-1.0, 0.0, 1.0, 5.0]])  # basis 0.5 and 1: levels -1.5, -0.5, 0.5, 1.5
    quantizer = quantizer_with([[0.5, 1.0]], weight).eval()
    assert quantizer(weight).tolist() == [[-0.5, 0.5, 1.5, 1.5]]
    parts = quantizer.decompose(weight)
    assert (0.5 * parts.planes[0] + parts.planes[1]).tolist() == [[-0.5, 0.5, 1.5, 1.5]]


@pytest.mark.parametrize("value", [0.0, float("nan")])
def test_a_lost_basis_is_an_error(value):
    weight = weights(8).float()
    quantizer = LqNetsQuantizer(weight, settings_of("lq_nets"))
    quantizer.basis.fill_(value)
    with pytest.raises(DbqError, match=r"layer block\.conv1: the basis"):
        quantizer.check(weight, "block.conv1")
