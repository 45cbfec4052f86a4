"""The compiled kernels give what the operations of branch_function.py give, whose gradient finite differences confirm."""

import copy
import re
import shutil

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrize

from dbq.benchmark import overhead
from dbq.errors import DbqError
from dbq.quantizers import branch_function, compiled, together
from dbq.quantizers.dbq import BranchQuantizer
from dbq.quantizers.levels import midpoints, sorted_levels
from dbq.settings import policies
from dbq.settings import resolve as config
from dbq.settings.quantizers import DbqSettings, TemperatureSettings

WHY_NOT = compiled.why_not(torch.device("cpu"))
needs_a_compiler = pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))


@given(seed=st.integers(0, 10_000), branches=st.integers(1, 3), heat=st.floats(0.5, compiled.LARGEST))
@settings(deadline=None, max_examples=40)
def test_the_formulas_for_pairs_of_thresholds(seed, branches, heat):
    """Uncompiled, in float64, against the sigmoids themselves; weights far outside the levels included."""
    generator = torch.Generator().manual_seed(seed)
    w, grad = (torch.randn(3, 20, generator=generator, dtype=torch.float64) for _ in range(2))
    w *= 10 ** torch.empty(3, 1, dtype=torch.float64).uniform_(-2, 1, generator=generator)
    levels, _ = sorted_levels(torch.rand(1, branches, generator=generator, dtype=torch.float64) + 0.05)
    levels = levels / levels[:, -1:]
    g1, g2, temperature = (torch.full((1, 1), value, dtype=torch.float64) for value in (0.8, 1.3, heat))
    rows = torch.zeros(3, dtype=torch.int64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiled, "_kernel", lambda function: function)
        w_grad, dots, by_level, at_threshold = compiled.gradients(w, grad, levels, g1, g2, temperature, rows)
    thresholds, gaps = midpoints(levels)[0], levels.diff(dim=1)[0]
    distance = heat * (0.8 * w[:, None] - thresholds[:, None])
    slopes = grad[:, None] * torch.sigmoid(distance) * torch.sigmoid(-distance)
    expected = heat * 0.8 * 1.3 * (gaps[:, None] * slopes).sum(1)
    close = {"rtol": 1e-9, "atol": 1e-13}
    torch.testing.assert_close(w_grad, expected, **close)
    torch.testing.assert_close(dots[:, 0], (expected * w).sum(1), **close)
    sums = slopes.sum(2)
    torch.testing.assert_close(at_threshold, (sums - sums.flip(1)) / 2, **close)
    index = torch.bucketize(0.8 * w, thresholds, right=True)
    sums = torch.stack([torch.where(index == level, grad, 0.0).sum(1) for level in range(levels.shape[1])], 1)
    torch.testing.assert_close(by_level, (sums - sums.flip(1)) / 2)
    if heat > 0.5 * compiled.LARGEST:  # where float32 could overflow
        single = [value.float() for value in (w, grad, levels, g1, g2, temperature)]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(compiled, "_kernel", lambda function: function)
            in_float32 = compiled.gradients(*single, rows)[0].double()
        torch.testing.assert_close(in_float32, w_grad, rtol=1e-3, atol=1e-3 * float(w_grad.abs().max()))


@needs_a_compiler
@pytest.mark.parametrize("branches", [1, 2])
def test_a_step_of_a_network_is_the_same(branches):
    torch.manual_seed(branches)
    config = DbqSettings(branches, "hard", TemperatureSettings("constant", 7.0, 7.0), "layer", "lsq", "least_squares")
    layers = [nn.Conv2d(3, 64, 3), nn.Conv2d(64, 64, 3)]
    eager = nn.Sequential(*layers).to(memory_format=torch.channels_last)
    for layer in layers:
        parametrize.register_parametrization(layer, "weight", BranchQuantizer(layer.weight, config))
    quick = copy.deepcopy(eager)
    policies.compile_quantizers(quick)
    images, outputs = torch.randn(2, 3, 9, 9), []
    for model in (eager, quick):
        together.attach(model)
        model.train()
        outputs.append(model(images))
        outputs[-1].square().sum().backward()
    assert torch.equal(*outputs)  # the same weights, bit for bit
    for one, other in zip(eager.parameters(), quick.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-5 * float(one.grad.abs().max()))


def test_above_float32s_limits_the_sigmoids_themselves_are_used():
    config = DbqSettings(2, "hard", TemperatureSettings("exponential", 4.0, 1000.0), "layer", "lsq", "least_squares")
    quantizer = BranchQuantizer(torch.randn(4, 9), config)
    quantizer.wants_compiled = True
    quantizer.advance(0.0, 0)
    assert quantizer.compiled
    quantizer.advance(1.0, 0)
    assert not quantizer.compiled
    assert torch.isfinite(quantizer(torch.randn(4, 9))).all()


@pytest.mark.parametrize("missing", ["g++", "Python.h"])
def test_a_machine_that_cannot_compile_is_told_so(monkeypatch, missing):
    if missing == "g++":
        monkeypatch.setattr(shutil, "which", lambda name: None)
    else:
        monkeypatch.setattr(shutil, "which", lambda name: f"/{name}")
        monkeypatch.setattr(compiled.sysconfig, "get_path", lambda name: "/nowhere")
    with pytest.raises(DbqError, match=rf"compile.*no .*{re.escape(missing)}"):
        policies.compile_quantizers(nn.Linear(2, 2))
    assert policies.compile_quantizers(nn.Linear(2, 2), optional=True) == f"eager ({compiled.why_not(torch.device('cpu'))})"
    settings = config.overhead(config.read(), "smoke")
    status = {
        name: overhead._blank(config.read(), "smoke", "resnet20", name, 32, settings, "cpu")["status"]
        for name in ("dbq-1t", "dbq-1t-eager", "dbq-1t-compiled", "twn")
    }
    reason = compiled.why_not(torch.device("cpu"))
    assert status == {
        "dbq-1t": f"run; eager kernels: {reason}", "dbq-1t-eager": "run", "dbq-1t-compiled": f"not run: {reason}", "twn": "run",
    }  # fmt: skip


@needs_a_compiler
def test_auto_compiles_where_it_can_and_says_so():
    network = nn.Sequential(nn.Conv2d(1, 4, 3))
    config = DbqSettings(1, "hard", TemperatureSettings("constant", 7.0, 7.0), "layer", "lsq", "least_squares")
    parametrize.register_parametrization(network[0], "weight", BranchQuantizer(network[0].weight, config))
    assert policies.compile_quantizers(network, optional=True) == "compiled"
    assert network[0].parametrizations.weight[0].compiled


def test_how_it_is_compiled_makes_no_other_result():
    """Fingerprints are those of `compile: false`, with which the first results were measured."""
    tree, key = config.read(), "resnet20-cifar10-dbq-2t"
    entry = {**tree["experiments"][key], "seeds": {"smoke": [0]}}
    found = {}
    for value in (False, "auto", "quantizers", True):
        own = {**tree, "experiments": {key: {**entry, "training": {"compile": value}}}}
        found[str(value)] = config.settings_of(config.experiment(own, "smoke", key))
    assert len(set(found.values())) == 1
    other = {**tree, "experiments": {key: {**entry, "training": {"distillation": 0.5}}}}
    assert config.settings_of(config.experiment(other, "smoke", key)) not in found.values()


def test_branch_function_falls_back_to_nothing(monkeypatch):
    """compile=True reaches the kernels: a broken one is not passed over in silence."""
    monkeypatch.setattr(compiled, "hard", lambda *arguments: 1 / 0)
    one = torch.ones(1, 1)
    with pytest.raises(ZeroDivisionError):
        w = torch.randn(1, 9)
        branch_function.BranchQuantize.apply(branch_function.OneLayer(w, 1), True, True, one, one, one, one, one, w)
