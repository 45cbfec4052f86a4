"""Certificates hold for a sound network and are violated by each thing that they are for."""

from types import SimpleNamespace

import pytest
import tiny
import torch

from dbq.errors import DbqError
from dbq.insertion import policies
from dbq.training import certificates, optimiser
from dbq.training.loop import Trainee
from dbq.training.oscillation import Oscillation


@pytest.fixture
def run():
    network, policy = tiny.network_with(tiny.row())
    return SimpleNamespace(network=network.eval(), policy=policy, fit=SimpleNamespace(oscillating={}))


def violated(run):
    return {row["certificate"].split(":")[0] for row in certificates.certify(run, "dbq") if not row["holds"]}


def test_a_sound_network_holds_all(run):
    rows = certificates.certify(run, "dbq")
    assert all(row["holds"] for row in rows)
    certificates.demand(rows, "x")


def first(run):
    return next(policies.branch_quantizers(run.network))


def test_each_violation_is_found_and_named(run):
    name, quantizer, _ = first(run)
    run.fit.oscillating = {name: 0.9, "fc": 1.0}
    assert violated(run) == {"weights that oscillate in the last epoch"}
    run.fit.oscillating = {}
    run.policy.append(run.policy[0])
    assert violated(run) == {"every layer once in the policy table"}
    run.policy.pop()
    with torch.no_grad():
        quantizer.a[:, 1] = 0
    found = violated(run)
    assert "no dead or collapsed branch" in found
    assert "smallest distance of neighbouring levels" in found
    with pytest.raises(DbqError, match=f"rows.x: violated: .*{name}"):
        certificates.demand(certificates.certify(run, "dbq"), "x")


def test_a_weight_that_returns_to_its_level_oscillates_and_one_that_moves_on_does_not(run):
    oscillation = Oscillation(run.network)
    name, quantizer, weight = first(run)
    levels = quantizer.transfer(weight).levels / quantizer.g1
    flat = weight.data.view(-1)
    path = [(levels[0], levels[0]), (levels[1], levels[1]), (levels[0], levels[2])]
    for back, onward in path:
        flat[0], flat[1] = back, onward
        oscillation.sample()
    assert oscillation.rates()[name] == pytest.approx(1 / flat.numel())


@pytest.mark.parametrize(("epochs", "samples"), [(1, 2), (2, 4)])
def test_the_last_epoch_is_watched_and_of_a_single_one_the_second_half(monkeypatch, epochs, samples):
    recipe = tiny.row(epochs=epochs).training
    network, seen = torch.nn.Linear(3, 2), []
    monkeypatch.setattr(Oscillation, "sample", lambda self: seen.append(1))
    batches = SimpleNamespace(epoch=lambda seed: 40 * [(torch.randn(2, 3), torch.tensor([0, 1]))], images_per_epoch=80)
    trainee = Trainee(network, optimiser.build(network, recipe), recipe, seed=0, teacher=None)
    for epoch in range(epochs):
        trainee.epoch(batches, epoch, steps=40)
    assert len(seen) == samples


@pytest.mark.parametrize(("bits", "judged"), [(4, True), (8, False)])
def test_oscillation_is_judged_where_levels_are_far_apart(bits, judged):
    network, policy = tiny.network_with(tiny.row(({"bits": bits}, {}, {}, {}), "uniform"))
    name = next(layer.layer for layer in policy if layer.reason.endswith("the method"))
    run = SimpleNamespace(network=network.eval(), policy=policy, fit=SimpleNamespace(oscillating={name: 0.9}))
    rows = [row for row in certificates.certify(run, "uniform") if row["layer"] == name and row["value"] == 0.9]
    assert [(row["holds"], row["limit"]) for row in rows] == [(not judged, 0.25 if judged else None)]
