"""The compiled kernels compute what the operations of branch_function.py compute, whose gradient finite differences confirm."""

import copy
import functools
import re
import shutil

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from method_settings import settings_of
from torch import nn
from torch.nn.utils import parametrize

from dbq.errors import DbqError
from dbq.insertion import policies
from dbq.quantizers import compiled
from dbq.quantizers.branch_function import one_layer
from dbq.quantizers.dbq import BranchQuantizer
from dbq.quantizers.levels import midpoints, sorted_levels
from dbq.quantizers.together import JointQuantization

WHY_NOT = compiled.why_not(torch.device("cpu"))
needs_a_compiler = pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))


@pytest.fixture
def uncompiled():
    """The kernels' operations one by one, for any type and without a compiler."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiled, "_kernel", lambda function: function)
        yield


def network(layers, **changes):
    torch.manual_seed(len(layers))
    result = nn.Sequential(*(nn.Conv2d(*sizes) for sizes in layers)).to(memory_format=torch.channels_last)
    for layer in result:
        parametrize.register_parametrization(layer, "weight", BranchQuantizer(layer.weight, settings_of("dbq", **changes)))
    JointQuantization(result)
    return result


@given(seed=st.integers(0, 10_000), branches=st.integers(1, 3), temperature=st.floats(0.5, compiled.LARGEST))
@settings(deadline=None, max_examples=40)
def test_the_formulas_for_pairs_of_thresholds(seed, branches, temperature):
    """Uncompiled, in float64, against the sigmoids themselves; weights far outside the levels included."""
    generator = torch.Generator().manual_seed(seed)
    w, grad = (torch.randn(3, 20, generator=generator, dtype=torch.float64) for _ in range(2))
    w *= 10 ** torch.empty(3, 1, dtype=torch.float64).uniform_(-2, 1, generator=generator)
    levels, _ = sorted_levels(torch.rand(1, branches, generator=generator, dtype=torch.float64) + 0.05)
    levels = levels / levels[:, -1:]
    scalars = [torch.full((1, 1), value, dtype=torch.float64) for value in (0.8, 1.3, temperature)]
    rows = torch.zeros(3, dtype=torch.int64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiled, "_kernel", lambda function: function)
        w_grad, dots, by_level, at_threshold = compiled.gradients(w, grad, levels, *scalars, rows)
        single = compiled.gradients(*(value.float() for value in (w, grad, levels, *scalars)), rows)[0].double()
    thresholds, gaps = midpoints(levels)[0], levels.diff(dim=1)[0]
    distance = temperature * (0.8 * w[:, None] - thresholds[:, None])
    slopes = grad[:, None] * torch.sigmoid(distance) * torch.sigmoid(-distance)
    expected = temperature * 0.8 * 1.3 * (gaps[:, None] * slopes).sum(1)
    close = {"rtol": 1e-9, "atol": 1e-13}
    torch.testing.assert_close(w_grad, expected, **close)
    torch.testing.assert_close(dots[:, 0], (expected * w).sum(1), **close)
    sums = slopes.sum(2)
    torch.testing.assert_close(at_threshold, (sums - sums.flip(1)) / 2, **close)
    index = torch.bucketize(0.8 * w, thresholds, right=True)
    sums = torch.stack([torch.where(index == level, grad, 0.0).sum(1) for level in range(levels.shape[1])], 1)
    torch.testing.assert_close(by_level, (sums - sums.flip(1)) / 2)
    if temperature > 0.5 * compiled.LARGEST:  # where float32 could overflow
        torch.testing.assert_close(single, w_grad, rtol=1e-3, atol=1e-3 * float(w_grad.abs().max()))


@pytest.mark.parametrize("scales", [(1.0,), (0.8, 0.3), (0.8, 0.31, 0.13)])
def test_a_weight_on_a_threshold_counts_in_the_level_that_it_takes(uncompiled, scales):
    """In the gradients of a and g2 too, above and below 0. dQ/dg2 = Q / g2 says so without any code for gradients."""
    a, temperature = (torch.tensor([value], dtype=torch.float64) for value in (scales, [5.0]))
    g1, g2 = (torch.tensor(value, dtype=torch.float64) for value in (1.0, 1.3))
    w = midpoints(sorted_levels(a)[0])  # one weight on each threshold
    grad = torch.randn(w.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = []
    for use_compiled in (False, True):
        leaves = [value.clone().requires_grad_() for value in (w, a, g1, g2)]
        output = one_layer(*leaves, temperature, True, use_compiled)
        output.backward(grad)
        assert float(leaves[3].grad) == pytest.approx(float((grad * output.detach()).sum() / 1.3), rel=1e-12)
        found.append([output.detach(), *(leaf.grad for leaf in leaves)])
    for eager, other in zip(*found, strict=True):
        torch.testing.assert_close(other, eager)


@needs_a_compiler
@pytest.mark.parametrize("branches", [1, 2])
def test_a_step_of_a_network_is_the_same(branches):
    eager = network([(3, 64, 3), (64, 64, 3)], branches=branches)
    quick = copy.deepcopy(eager)
    policies.use_compiled_kernels(quick)
    assert [layer.parametrizations.weight[0].compiled for layer in (*eager, *quick)] == [False, False, True, True]
    images, outputs = torch.randn(2, 3, 9, 9), []
    for model in (eager, quick):
        outputs.append(model(images))
        outputs[-1].square().sum().backward()
    assert torch.equal(*outputs)  # the same weights, bit for bit
    for one, other in zip(eager.parameters(), quick.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-5 * float(one.grad.abs().max()))


def test_a_network_may_have_more_shapes_than_torch_compiles_by_default(monkeypatch):
    """With scales per channel each layer's shape is compiled on its own; tracing alone shows whether torch allows it."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    monkeypatch.setattr(compiled, "_kernel", compiled._kernel.__wrapped__)
    model = network([(3, width, 1) for width in range(4, 14)], branches=1, scales="channel", initial="largest")
    monkeypatch.setattr(compiled, "why_not", lambda device: None)
    policies.use_compiled_kernels(model)
    sum(layer(torch.randn(1, 3, 2, 2)).sum() for layer in model).backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())


@needs_a_compiler
def test_above_float32s_limits_the_sigmoids_themselves_are_used():
    model = network([(1, 4, 3)], temperature={"schedule": "exponential", "start": 4.0, "end": 1000.0})
    policies.use_compiled_kernels(model)
    quantizer = model[0].parametrizations.weight[0]
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
    model = network([(1, 4, 3)])
    with pytest.raises(DbqError, match=rf"kernels: compiled.* no .*{re.escape(missing)}.*kernels: eager"):
        policies.use_compiled_kernels(model)
    assert not model[0].parametrizations.weight[0].compiled
    policies.use_compiled_kernels(nn.Linear(2, 2))  # nothing to compile


def test_a_broken_kernel_is_not_replaced_in_silence(monkeypatch):
    monkeypatch.setattr(compiled, "hard", lambda *arguments: 1 / 0)
    one, scalar = torch.ones(1, 1), torch.ones(())
    with pytest.raises(ZeroDivisionError):
        one_layer(torch.randn(1, 9), one, scalar, scalar, one, True, True)
