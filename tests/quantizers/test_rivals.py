"""The interface of base.py, for all methods that DBQ is compared with."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from method_settings import settings_of
from torch import nn
from torch.nn.utils import parametrize

from dbq import quantizers
from dbq.errors import DbqError

# method, settings, and the largest number of distinct values in a group of weights
VARIANTS = {
    "twn-channel": ("twn", {"scales": "channel"}, 3),
    "twn-layer": ("twn", {"scales": "layer"}, 3),
    "ttq": ("ttq", {}, 3),
    "lsq-2-symmetric": ("lsq", {"bits": 2, "levels": "symmetric"}, 3),
    "lsq-2-full": ("lsq", {"bits": 2, "levels": "full"}, 4),
    "lsq-4-symmetric": ("lsq", {"bits": 4, "levels": "symmetric"}, 15),
    "lq_nets-1-channel": ("lq_nets", {"branches": 1, "scales": "channel"}, 2),
    "lq_nets-2-channel": ("lq_nets", {"branches": 2, "scales": "channel"}, 4),
    "lq_nets-3-layer": ("lq_nets", {"branches": 3, "scales": "layer"}, 8),
    "quantization_networks-ternary": ("quantization_networks", {"levels": [-1, 0, 1]}, 3),
    "quantization_networks-seven": ("quantization_networks", {"levels": [-4, -2, -1, 0, 1, 2, 4]}, 7),
    "sawb-2": ("sawb", {"bits": 2}, 3),
    "sawb-3": ("sawb", {"bits": 3}, 7),
    "sawb-4": ("sawb", {"bits": 4}, 15),
}
every = pytest.mark.parametrize("variant", VARIANTS)


def build(variant, weight, fit=True):
    method, changes, _ = VARIANTS[variant]
    return quantizers.build(method, weight, settings_of(method, **changes), fit)


def example(seed=0, shape=(6, 5, 3, 3)):
    return 0.1 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def recomputed(quantizer, weight):
    """The hard weights as the sum of their parts, branch after branch."""
    if quantizer.coding == "fixed_point":
        return quantizer.integers(weight) * quantizer.step(weight).reshape(-1, *[1] * (weight.ndim - 1))
    parts = quantizer.decompose(weight)
    assert parts.planes.dtype == torch.int8
    assert parts.scales.shape in ((1, len(parts.planes)), (len(weight), len(parts.planes)))
    total = sum(parts.scales[:, j, None] * plane for j, plane in enumerate(parts.planes))
    return total.view(weight.shape)


@every
@given(seed=st.integers(0, 1000), exponent=st.integers(-6, 3), rows=st.integers(2, 5), ndim=st.sampled_from([2, 4]))
@settings(deadline=None, max_examples=12)
def test_hard_weights_are_exactly_the_sum_of_their_parts(variant, seed, exponent, rows, ndim):
    weight = example(seed, (rows, 24) if ndim == 2 else (rows, 4, 3, 3)) * 2.0**exponent
    quantizer = build(variant, weight).eval()
    hard = quantizer(weight).detach()
    assert torch.equal(recomputed(quantizer, weight), hard)
    planes = quantizer.integers(weight) if quantizer.coding == "fixed_point" else quantizer.decompose(weight).planes
    allowed = {"ternary": {-1, 0, 1}, "binary": {-1, 1}}.get(quantizer.coding)
    assert allowed is None or set(planes.unique().tolist()) <= allowed
    groups = hard if variant.endswith("channel") else [hard]
    assert all(len(group.unique()) <= VARIANTS[variant][2] for group in groups)


@every
@given(seed=st.integers(0, 1000), exponent=st.integers(-5, 5))
@settings(deadline=None, max_examples=8)
def test_scaling_the_float_weights_scales_the_quantized_ones(variant, seed, exponent):
    weight, factor = example(seed), 2.0**exponent
    assert torch.equal(build(variant, weight * factor).eval()(weight * factor), factor * build(variant, weight).eval()(weight))


@every
def test_a_saved_state_restores_the_quantizer_exactly(variant):
    weight = example()
    trained, other = build(variant, weight), build(variant, example(9), fit=False)
    for parameter in trained.parameters():
        parameter.data.mul_(1.25)
    trained.advance(0.5, 3)
    trained.train()(weight)
    other.load_state_dict(trained.state_dict())
    assert torch.equal(other.eval()(weight), trained.eval()(weight))
    assert torch.equal(other.train()(weight), trained.train()(weight))


@every
def test_channels_last_weights_keep_format_and_values(variant):
    weight = example()
    moved = weight.to(memory_format=torch.channels_last)
    results = []
    for value in (weight, moved):
        quantizer = build(variant, weight)
        quantizer.load_state_dict(build(variant, weight).state_dict())
        leaf = value.clone(memory_format=torch.preserve_format).requires_grad_()
        quantized = quantizer.train()(leaf)
        quantized.square().sum().backward()
        results.append((quantized.detach(), leaf.grad, quantizer.eval()(leaf).detach()))
    assert all(result.is_contiguous(memory_format=torch.channels_last) for result in results[1])
    for one, other in zip(*results, strict=True):  # sums in another order may differ in the last bit
        assert torch.allclose(one, other, rtol=1e-5, atol=1e-7)


@every
def test_a_network_trains_through_it_and_evaluates_hard(variant):
    torch.manual_seed(1)
    layer = nn.Conv2d(5, 6, 3)
    quantizer = build(variant, layer.weight)
    parametrize.register_parametrization(layer, "weight", quantizer)
    original = layer.parametrizations.weight.original
    quantizer.advance(0.0, 0)
    layer(torch.randn(2, 5, 8, 8)).square().sum().backward()
    for value in (original, *quantizer.parameters()):
        assert torch.isfinite(value.grad).all()
        assert value.grad.any()
    quantizer.check(original, "conv")
    layer.eval()
    assert torch.equal(layer.weight, recomputed(quantizer, original))


@every
def test_nothing_of_the_size_of_levels_times_weights_is_kept_for_the_backward_pass(variant):
    weight = example(shape=(6, 5, 3, 3)).requires_grad_()
    quantizer = build(variant, weight).train()
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: saved.append(tensor) or tensor, lambda tensor: tensor):
        quantizer(weight)
    assert all(tensor.numel() <= weight.numel() for tensor in saved)
    assert sum(tensor.numel() * tensor.element_size() for tensor in saved) <= 2.2 * weight.numel() * weight.element_size()


@every
def test_forward_and_backward_never_wait_for_a_value(variant):
    """On the meta device there are no values: a step that needs one on the host fails there, as it would stall a GPU."""
    quantizer = build(variant, example()).to("meta").train()
    weight = torch.empty(6, 5, 3, 3, device="meta", requires_grad=True)
    quantizer(weight).sum().backward()
    assert weight.grad.shape == weight.shape
    quantizer.eval()(weight)


@every
def test_transfer_has_sorted_levels_that_the_hard_weights_take(variant):
    weight = example()
    quantizer = build(variant, weight).eval()
    transfer = quantizer.transfer(weight)
    assert (transfer.levels.diff() > 0).all()
    assert (transfer.thresholds.diff() > 0).all()
    assert len(transfer.thresholds) == len(transfer.levels) - 1
    hard = quantizer(weight).detach()
    group = (hard[:1] if variant.endswith("channel") else hard).reshape(transfer.inputs.shape)
    index = (transfer.inputs.unsqueeze(-1) > transfer.thresholds).sum(-1)
    taken = transfer.levels[index]
    assert torch.allclose(taken / taken.abs().max(), group / group.abs().max(), atol=1e-6)


@every
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_check_names_the_layer_of_a_broken_weight(variant, value):
    weight = example()
    quantizer = build(variant, weight)
    quantizer.check(weight, "block.conv1")
    weight[0, 0, 0, 0] = value
    with pytest.raises(DbqError, match=r"layer block\.conv1: .*not finite"):
        quantizer.check(weight, "block.conv1")


@pytest.mark.parametrize(
    ("variant", "name", "words"),
    [
        ("lsq-2-full", "s", "learnt step"),
        ("ttq", "positive", "scale of the positive weights"), ("ttq", "negative", "scale of the negative weights"),
        ("quantization_networks-seven", "alpha", "scale alpha"), ("quantization_networks-seven", "beta", "scale beta"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("value", [0.0, -0.1])
def test_a_scale_that_is_not_positive_is_an_error(variant, name, words, value):
    quantizer = build(variant, example())
    getattr(quantizer, name).data.fill_(value)
    with pytest.raises(DbqError, match=rf"layer block\.conv1: the {words} is .*scale_learning_rate"):
        quantizer.check(example(), "block.conv1")


@pytest.mark.parametrize("variant", ["twn-channel", "lq_nets-2-channel", "sawb-2"])
def test_a_straight_through_gradient_reaches_every_weight_unchanged(variant):
    """Clipped weights too: the largest level of 2-bit SAWB is below the largest weight."""
    weight, grad = example().requires_grad_(), example(1)
    quantized = build(variant, weight).train()(weight)
    assert quantized.abs().max() < weight.abs().max()
    quantized.backward(grad)
    assert torch.equal(weight.grad, grad)


@every
def test_weights_that_nothing_can_be_fitted_to(variant):
    for weight in (torch.zeros(4, 4), torch.full((4, 4), float("nan"))):
        with pytest.raises(DbqError, match="zero or not finite"):
            build(variant, weight)


@every
def test_the_declared_bits_and_branches_are_those_of_the_planes(variant):
    method, changes, values = VARIANTS[variant]
    settings_ = settings_of(method, **changes)
    quantizer = build(variant, example())
    assert quantizer.storage_bits == settings_.weight_bits
    assert 2**settings_.weight_bits >= values
    if quantizer.coding == "fixed_point":
        assert settings_.branches == 0
        with pytest.raises(DbqError, match="no planes"):
            quantizer.decompose(example())
    else:
        assert len(quantizer.decompose(example()).planes) == settings_.branches


@every
def test_a_dead_filter_is_quantized_to_zero_or_one_level_and_nothing_breaks(variant):
    weight = example()
    weight[2] = 0.0
    quantizer = build(variant, weight)
    quantizer.train()(weight.requires_grad_()).sum().backward()
    hard = quantizer.eval()(weight).detach()
    assert torch.isfinite(hard).all()
    assert len(hard[2].unique()) == 1
    quantizer.check(weight.detach(), "conv")
    # binary levels leave zero out, and the centres of k-means need not lie around it
    if quantizer.coding != "binary" and variant != "quantization_networks-seven":
        assert not hard[2].any()


@pytest.mark.parametrize("variant", [*VARIANTS, "dbq-soft"])
def test_bf16_autocast_does_not_round_the_quantized_weights(variant):
    weight = example()
    soft = variant == "dbq-soft"
    quantizer = quantizers.build("dbq", weight, settings_of("dbq", forward="soft")) if soft else build(variant, weight)
    quantizer.train().advance(0.0, 0)
    expected = quantizer(weight)
    with torch.autocast("cpu", torch.bfloat16):
        found = quantizer(weight)
    # LQ-Nets moves its basis in every forward pass of a training
    tolerance = 1e-3 if variant.startswith("lq_nets") else 0
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=0)
