"""DBQ as a parametrization: hard evaluation, decomposition, guards."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from method_settings import settings_of
from torch import nn
from torch.nn.utils import parametrize

from dbq.errors import DbqError
from dbq.quantizers.dbq import BranchQuantizer, temperature
from dbq.quantizers.levels import levels_and_planes
from dbq.quantizers.uniform import UniformQuantizer, Width
from dbq.settings.quantizers import TemperatureSettings


def layer(branches, scales="layer", forward="hard"):
    torch.manual_seed(branches)
    conv = nn.Conv2d(5, 6, 3)
    settings_ = settings_of("dbq", branches=branches, scales=scales, forward=forward, temperature=12.0)
    parametrize.register_parametrization(conv, "weight", BranchQuantizer(conv.weight, settings_))
    return conv, conv.parametrizations.weight[0], conv.parametrizations.weight.original


@pytest.mark.parametrize("scales", ["layer", "channel"])
@pytest.mark.parametrize("branches", [1, 2, 3])
def test_evaluation_is_hard_and_equals_the_planes(branches, scales):
    conv, quantizer, original = layer(branches, scales, forward="soft")
    conv.eval()
    parts = quantizer.decompose(original)
    assert parts.planes.shape == (branches, 6, 45)
    assert set(parts.planes.unique().tolist()) <= {-1, 0, 1}
    total = sum(parts.scales[:, j, None] * parts.planes[j] for j in range(branches))
    assert torch.allclose(total, conv.weight.flatten(1), rtol=1e-6, atol=1e-7)
    rows = conv.weight if scales == "channel" else [conv.weight]
    assert all(len(row.unique()) <= 3**branches for row in rows)


def test_each_weight_goes_to_its_nearest_level():
    conv, quantizer, original = layer(2)
    levels = levels_and_planes(quantizer.a)[0][0]
    scaled = (quantizer.g1 * original.detach()).flatten()
    nearest = levels[(scaled[:, None] - levels).abs().argmin(1)]
    assert torch.allclose(conv.eval().weight.flatten(), quantizer.g2 * nearest)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=3))
@settings(deadline=None, max_examples=50)
def test_levels_are_all_signed_sums_and_planes_are_the_cheapest(integers):
    """Integer scales make equal levels exact; brute force over all plane tuples."""
    a = torch.tensor([integers], dtype=torch.float32)
    levels, planes = levels_and_planes(a)
    tuples = list(itertools.product((-1, 0, 1), repeat=len(integers)))
    sums = {vector: sum(x * y for x, y in zip(vector, integers, strict=True)) for vector in tuples}
    assert levels[0].tolist() == sorted(sums.values())
    for level, plane in zip(levels[0].tolist(), planes[0].int().tolist(), strict=True):
        assert sums[tuple(plane)] == level
        assert sum(map(abs, plane)) == min(sum(map(abs, vector)) for vector, value in sums.items() if value == level)


def test_levels_are_symmetric_and_resorted_when_the_scales_come_close():
    levels, _ = levels_and_planes(torch.tensor([[1.0, 0.8]]))  # a1 < 2 a2
    assert (levels.diff() >= 0).all()
    assert torch.equal(levels, -levels.flip(1))


def test_a_weight_on_a_threshold_is_the_same_in_hard_form_and_decomposition():
    conv, quantizer, original = layer(2)
    levels = levels_and_planes(quantizer.a)[0][0]
    with torch.no_grad():
        quantizer.g1.fill_(1.0)
        quantizer.g2.fill_(1.0)
        original.view(-1)[:8] = (levels[1:] + levels[:-1]) / 2
    assert torch.equal(conv.eval().weight.view(-1)[:8], levels[1:])
    parts = quantizer.decompose(original)
    assert torch.allclose((parts.scales[0, :, None, None] * parts.planes).sum(0).view(-1)[:8], levels[1:])


def test_gradients_reach_weights_and_every_scale():
    conv, quantizer, original = layer(3, "channel")
    conv(torch.randn(2, 5, 8, 8)).square().sum().backward()
    for value in (original, quantizer.a, quantizer.g1, quantizer.g2):
        assert value.grad is not None
        assert value.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda quantizer, weight: weight.mul_(float("nan")), "weight is not finite"),
        (lambda quantizer, weight: quantizer.a[0, 1].zero_(), "branch has collapsed"),
        (lambda quantizer, weight: quantizer.a.mul_(-1), "branch has collapsed"),
        (lambda quantizer, weight: quantizer.g2.zero_(), "branch has collapsed"),
        (lambda quantizer, weight: weight.mul_(1e-6), "every weight is zero"),
        (lambda quantizer, weight: weight.mul_(0.1), "no weight uses branch"),
    ],
)
def test_guards_name_the_layer(spoil, words):
    _, quantizer, weight = layer(2)
    if "branch 1" in words or "no weight uses" in words:
        with torch.no_grad():
            quantizer.a.copy_(torch.tensor([[0.9, 0.1]]))
    quantizer.check(weight, "block.conv1")
    with torch.no_grad():
        spoil(quantizer, weight)
    with pytest.raises(DbqError, match=rf"layer block\.conv1: .*{words}"):
        quantizer.check(weight, "block.conv1")


@pytest.mark.parametrize("schedule", ["constant", "linear", "exponential"])
def test_temperature_schedules_start_and_end_where_they_say(schedule):
    config = TemperatureSettings(schedule=schedule, start=5.0, end=5.0 if schedule == "constant" else 500.0)
    values = [temperature(config, progress / 10) for progress in range(11)]
    assert values[0] == pytest.approx(config.start)
    assert values[-1] == pytest.approx(config.end)
    assert values == sorted(values)


def test_the_host_knows_the_temperature_of_a_loaded_state():
    """The buffer and the number on the host agree after steps, after loading, and after the step that follows."""
    rising = {"schedule": "exponential", "start": 4.0, "end": 1000.0}
    trained, resumed = (BranchQuantizer(torch.randn(4, 9), settings_of("dbq", temperature=rising)) for _ in range(2))
    trained.advance(1.0, 0)
    resumed.load_state_dict(trained.state_dict())
    assert resumed.host_temperature == float(resumed.temperature) == 1000.0
    for progress in (0.5, 0.5, 0.7):
        resumed.advance(progress, 0)
        assert float(resumed.temperature) == pytest.approx(resumed.host_temperature) == pytest.approx(4 * 250**progress)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_uniform_weights_are_integers_times_a_step(bits):
    torch.manual_seed(bits)
    weight = torch.randn(7, 9)
    quantizer = UniformQuantizer(weight, Width(bits))
    integers = (weight.double() / (weight.abs().max().double() / (2 ** (bits - 1) - 1))).round()
    assert torch.equal(quantizer.integers(weight), integers.int())
    assert int(integers.abs().max()) == 2 ** (bits - 1) - 1
