"""Initial scales against brute force."""

import itertools

import pytest
import torch

from dbq.quantizers.initial import least_squares_scales, squared_error


def exhaustive_one_branch(w):
    """Every support of every size; the best scale of a support is the mean of its magnitudes."""
    best = float("inf")
    for chosen in itertools.product((0, 1), repeat=len(w)):
        mask = torch.tensor(chosen, dtype=torch.bool)
        scale = w[mask].abs().mean() if mask.any() else torch.tensor(0.0)
        error = torch.where(mask, w.abs() - scale, w.abs()).square().mean()
        best = min(best, float(error))
    return best


@pytest.mark.parametrize("seed", range(5))
def test_one_branch_is_optimal(seed):
    w = torch.randn(1, 9, generator=torch.Generator().manual_seed(seed))
    assert float(squared_error(w, least_squares_scales(w, 1))[0]) == pytest.approx(exhaustive_one_branch(w[0]), rel=1e-5)


@pytest.mark.parametrize("branches", [2, 3])
@pytest.mark.parametrize("seed", range(3))
def test_more_branches_are_as_good_as_a_grid_search(branches, seed):
    w = torch.randn(1, 60, generator=torch.Generator().manual_seed(seed)).double()
    ours = float(squared_error(w, least_squares_scales(w, branches).double())[0])
    largest = float(w.abs().max())
    axis = torch.linspace(0.02, 1.0, 60 if branches == 2 else 24).double() * largest
    grid = torch.cartesian_prod(*[axis] * branches)
    grid = grid[(grid.diff(dim=1) < 0).all(1)]
    brute = min(float(squared_error(w.expand(len(part), -1), part).min()) for part in grid.split(500))
    assert ours <= brute * 1.02


def test_each_channel_gets_its_own_optimum():
    w = torch.randn(5, 40, generator=torch.Generator().manual_seed(1))
    together = least_squares_scales(w, 2)
    apart = torch.cat([least_squares_scales(row[None], 2) for row in w])
    assert torch.allclose(together, apart, rtol=1e-4)


def test_scales_are_descending_and_positive():
    scales = least_squares_scales(torch.randn(8, 100, generator=torch.Generator().manual_seed(2)), 3)
    assert (scales > 0).all()
    assert (scales.diff(dim=1) <= 0).all()
