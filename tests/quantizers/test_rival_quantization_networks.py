"""Quantization Networks against finite differences, sklearn's k-means and the definition in numpy."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from method_settings import settings_of
from sklearn.cluster import KMeans

from dbq.quantizers import branch_function
from dbq.quantizers.quantization_networks import QuantizationNetworksQuantizer, SumOfSigmoids, k_means

TERNARY, SEVEN = [-1, 0, 1], [-4, -2, -1, 0, 1, 2, 4]
both = pytest.mark.parametrize("levels", [TERNARY, SEVEN], ids=["ternary", "seven"])


def quantizer_of(weight, levels):
    return QuantizationNetworksQuantizer(weight, settings_of("quantization_networks", levels=levels))


def weights(seed=0, shape=(4, 50)):
    return 0.2 * torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@both
def test_scales_start_as_in_the_authors_code(levels):
    weight = weights()
    quantizer = quantizer_of(weight, levels)
    assert quantizer.beta.item() == pytest.approx(1.25 * levels[-1] / float(weight.abs().max()))
    assert quantizer.alpha.item() == pytest.approx(1 / quantizer.beta.item())


@both
@pytest.mark.parametrize("temperature", [1.0, 20.0])
def test_soft_forward_is_the_sum_of_sigmoids(levels, temperature):
    weight = weights()
    quantizer = quantizer_of(weight, levels).train()
    quantizer.temperature.fill_(temperature)
    beta, alpha, w = quantizer.beta.item(), quantizer.alpha.item(), weight.numpy()
    expected = np.full_like(w, float(levels[0]))
    for gap, threshold in zip(np.diff(levels), quantizer.thresholds.numpy(), strict=True):
        expected += gap / (1 + np.exp(-temperature * (beta * w - threshold)))
    assert np.allclose(quantizer(weight).detach().numpy(), alpha * expected)


@both
@pytest.mark.parametrize("block", [1, 1 << 19])
def test_gradients_against_finite_differences(levels, block, monkeypatch):
    """In blocks of one row, and in one block."""
    monkeypatch.setattr("dbq.quantizers.sigmoids.BLOCK", block)
    weight = weights(shape=(3, 6)).requires_grad_()
    quantizer = quantizer_of(weight, levels)
    fixed = torch.tensor(3.0, dtype=torch.float64), quantizer.levels, quantizer.thresholds
    inputs = weight, quantizer.beta.detach().requires_grad_(), quantizer.alpha.detach().requires_grad_()
    assert torch.autograd.gradcheck(lambda w, beta, alpha: SumOfSigmoids.apply(w, beta, alpha, *fixed), inputs)


@both
def test_the_soft_quantizer_tends_to_the_hard_one(levels):
    weight = weights(1)
    quantizer = quantizer_of(weight, levels)
    gaps = []
    for temperature in (1.0, 20.0, 200.0, 1e5):
        quantizer.temperature.fill_(temperature)
        soft, hard = quantizer.train()(weight).detach(), quantizer.eval()(weight).detach()
        gaps.append(float(quantizer.soft_hard_gap(weight)))
        assert gaps[-1] == pytest.approx(float((soft - hard).abs().mean() / hard.abs().max()), rel=1e-6)
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[-1] < 1e-3


@both
def test_hard_values_and_thresholds_by_the_definition(levels):
    weight = weights(2)
    quantizer = quantizer_of(weight, levels).eval()
    scaled = quantizer.beta.item() * weight.numpy()
    expected = np.array(levels)[(scaled[..., None] >= quantizer.thresholds.numpy()).sum(-1)]
    assert np.array_equal(quantizer.integers(weight).numpy(), expected)
    assert torch.equal(quantizer(weight), quantizer.alpha * torch.tensor(expected))


@given(st.integers(0, 1000), st.sampled_from([3, 5, 7]), st.sampled_from(["normal", "laplace", "uniform"]))
@settings(deadline=None, max_examples=15)
def test_k_means_is_as_good_as_that_of_sklearn(seed, clusters, kind):
    generator = np.random.default_rng(seed)
    values = getattr(generator, kind)(size=400)
    ours = k_means(torch.tensor(values), clusters).numpy()
    theirs = KMeans(clusters, n_init=3, random_state=seed).fit(values[:, None])
    assert (np.diff(ours) > 0).all()
    inertia = np.square(values[:, None] - ours).min(1).sum()
    assert inertia <= 1.15 * theirs.inertia_  # two local optima: random starts find a better one now and then (9 % at seed 426)
    if inertia == pytest.approx(theirs.inertia_, rel=1e-9):
        assert np.allclose(ours, np.sort(theirs.cluster_centers_[:, 0]))


def test_k_means_centres_are_the_means_of_their_clusters_and_repeatable():
    values = weights(3).flatten()
    centres = k_means(values, 5)
    nearest = (values[:, None] - centres).abs().argmin(1)
    assert torch.allclose(centres, torch.stack([values[nearest == cluster].mean() for cluster in range(5)]))
    assert torch.equal(centres, k_means(values.flip(0), 5))


def test_k_means_of_fewer_values_than_clusters():
    centres = k_means(torch.tensor([1.0, 1.0, 2.0]), 3)
    assert torch.isfinite(centres).all()
    assert (centres.diff() >= 0).all()


def test_thresholds_are_found_once_and_not_trained():
    weight = weights(4)
    quantizer = quantizer_of(weight, SEVEN)
    centres = k_means(quantizer.beta.detach() * weight, 7)
    assert torch.allclose(quantizer.thresholds, (centres[1:] + centres[:-1]) / 2)
    assert {name for name, _ in quantizer.named_parameters()} == {"alpha", "beta"}


def test_temperature_rule():
    quantizer = quantizer_of(weights(), TERNARY)
    seen = []
    for epoch in (0, 1, 98, 99, 100, 500):
        quantizer.advance(0.0, epoch)
        seen.append(float(quantizer.temperature))
    assert seen == [20, 40, 1980, 2000, 2000, 2000]


def test_a_weight_on_a_threshold_takes_the_level_above():
    weight = torch.tensor([[0.5, -0.5, 0.25, -0.75]])
    quantizer = quantizer_of(weight, TERNARY).eval()
    with torch.no_grad():
        quantizer.beta.fill_(1.0)
        quantizer.alpha.fill_(2.0)
        quantizer.thresholds.copy_(torch.tensor([-0.5, 0.5]))
    assert quantizer(weight).tolist() == [[2.0, 0.0, 0.0, -2.0]]
    assert quantizer.decompose(weight).planes.tolist() == [[[1, 0, 0, -1]]]


def test_the_soft_function_is_that_of_dbq_where_the_thresholds_are_mid_points():
    """Levels -1, 0, 1 with thresholds -1/2, 1/2 are one ternary branch of scale 1."""
    weight = weights(6)
    one, heat = torch.ones((), dtype=torch.float64), torch.full((1, 1), 7.0, dtype=torch.float64)
    levels = torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64)
    ours = SumOfSigmoids.apply(weight, one, one, heat.view(()), levels, torch.tensor([-0.5, 0.5], dtype=torch.float64))
    theirs = branch_function.soft(weight, torch.ones(1, 1, dtype=torch.float64), one, one, heat)
    assert torch.allclose(ours, theirs)
