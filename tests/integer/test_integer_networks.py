"""Every network, policy and method: the engine beside the training graph, and the fast arithmetic beside the exact one."""

import copy
import json

import numpy as np
import pytest
import quantized_networks as make
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dbq import networks
from dbq.integer import plain
from dbq.integer.compile import Widths, compile_network
from dbq.integer.execute import run
from dbq.integer.replay import replay, smallest_width


def check(network, size=8, count=16, bits=16):
    """Every mismatch is explained, the integers stay in their declared ranges, and both arithmetics agree bit for bit."""
    agreement = replay(network, make.batches(count, size), Widths(fixed_point_bits=bits))
    assert agreement.unexplained == 0, [site for site in agreement.sites if site.unexplained]
    sites = [site.site for site in agreement.sites]
    quantizers = [name for name, module in network.named_modules() if type(module).__name__ == "ActivationQuantizer"]
    assert sorted(sites) == sorted(["logits", *(name.replace(".input_quantizer", ".input") for name in quantizers)])
    assert all(site.values > 0 for site in agreement.sites)
    first = next(site for site in agreement.sites if site.values)
    assert first.differing == 0  # the image's quantization is the training graph's own
    assert sum(site.mismatches for site in agreement.sites) < 0.1 * sum(site.values for site in agreement.sites)
    for row in agreement.accumulators:
        assert row["observed_bits"] <= row["worst_case_bits"]
    program = compile_network(network, (3, size, size), Widths(fixed_point_bits=bits)).program
    images = make.images(1, size)
    assert plain.to_plain(plain.from_plain(*plain.to_plain(program)))[0] == plain.to_plain(program)[0]
    logits, fast = run(program, images, keep=True)
    exact_logits, exact = run(program, images, exact=True, keep=True)
    assert torch.equal(logits, exact_logits)
    for name, value in program.values.items():
        assert exact[name].dtype == torch.int64
        assert torch.equal(fast[name].long(), exact[name]), name
        assert torch.equal(fast[name], fast[name].round()), name
        assert value.low <= int(exact[name].min()) <= int(exact[name].max()) <= value.high, name
        assert tuple(exact[name].shape[1:]) == value.shape, name
    return agreement


@pytest.mark.parametrize(
    ("name", "policy"), [*((name, "everything") for name in networks.NAMES), ("resnet20", "standard"), ("shufflenet_v2", "standard")]
)
def test_every_network_in_its_32x32_form(name, policy):
    """With wide constants hardly a tie falls the other way than in float64; a random network enlarges each one that does."""
    agreement = check(make.build(name, policy=policy), bits=30)
    assert len(agreement.disagreeing_float64) <= 1
    assert len(agreement.disagreeing) <= 2


@pytest.mark.parametrize("name", [name for name in networks.NAMES if name != "resnet20"])
def test_every_network_in_its_imagenet_form(name):
    check(make.build(name, form="224x224", size=32), size=32, count=4)


@pytest.mark.parametrize("method", sorted(make.QUANTIZERS))
def test_every_method(method):
    check(make.tiny(method=method, policy="everything"))


@pytest.mark.parametrize("options", [{"bits": 4}, {"clip": "learnt"}, {"branches": 3}, {"branches": 1}, {"scales": "channel"}])
def test_every_option(options):
    check(make.tiny(policy="everything", **options))


@pytest.mark.parametrize("bits", [2, 4, 8, 20, 24])
def test_every_width(bits):
    check_network = make.tiny()
    program = compile_network(check_network, (3, 8, 8), Widths(fixed_point_bits=bits)).program
    images = make.images(4)
    assert torch.equal(run(program, images), run(program, images, exact=True))
    assert replay(check_network, make.batches(8), Widths(fixed_point_bits=bits)).unexplained == 0
    for operation in program.dot_products():
        assert int(operation.multipliers.abs().max()) < 2**bits


def test_wider_constants_come_nearer_to_the_training_graph():
    network = make.build("resnet20")
    differing = []
    for bits in (6, 10, 14, 18):
        agreement = replay(network, make.batches(8), Widths(fixed_point_bits=bits))
        differing.append(sum(site.differing for site in agreement.sites))
    assert differing == sorted(differing, reverse=True)
    assert differing[-1] < differing[0] / 4


NETWORK = make.tiny()
PROGRAM = compile_network(NETWORK, (3, 8, 8), mean=make.MEAN, std=make.STD).program
IMAGES = make.images(12)
LOGITS = run(PROGRAM, IMAGES)


@given(st.permutations(range(12)), st.lists(st.integers(1, 11), max_size=4, unique=True))
@settings(deadline=None, max_examples=25)
def test_the_order_of_images_and_the_split_into_batches_never_matter(order, cuts):
    parts = torch.tensor_split(IMAGES[list(order)], sorted(cuts))
    assert torch.equal(torch.cat([run(PROGRAM, part) for part in parts]), LOGITS[list(order)])


def test_memory_format_and_uint8_images_give_the_same_integers():
    assert torch.equal(run(PROGRAM, IMAGES.contiguous()), LOGITS)
    assert torch.equal(run(PROGRAM, IMAGES.contiguous(memory_format=torch.channels_last)), LOGITS)
    assert torch.equal(run(PROGRAM, make.pixels(12, 8)), LOGITS)


def test_a_program_survives_a_file(tmp_path):
    description, arrays = plain.to_plain(PROGRAM)
    (tmp_path / "program.json").write_text(json.dumps(description))
    np.savez(tmp_path / "arrays.npz", **arrays)
    assert all(array.dtype.kind == "i" for array in arrays.values())
    with np.load(tmp_path / "arrays.npz") as stored:
        copy = plain.from_plain(json.loads((tmp_path / "program.json").read_text()), dict(stored))
    assert torch.equal(run(copy, IMAGES), LOGITS)
    assert copy.values == PROGRAM.values
    assert replay(NETWORK, make.batches(12), program=copy).unexplained == 0


def test_the_training_graphs_logits_and_top1_are_the_networks_own():
    agreement = replay(NETWORK, make.batches(12))
    batch = next(make.batches(12, batch=12).in_order())
    with torch.no_grad():
        logits = NETWORK(batch[0])
        exact = copy.deepcopy(NETWORK).double()(batch[0].double())
    classes = [found.argmax(1) for found in (logits, exact, LOGITS)]
    top1 = [100 * float((found == batch[1]).float().mean()) for found in classes]
    assert [agreement.top1_graph, agreement.top1_float64, agreement.top1_engine] == pytest.approx(top1)
    assert agreement.disagreeing == (classes[2] != classes[0]).nonzero().flatten().tolist()
    assert agreement.disagreeing_float64 == (classes[2] != classes[1]).nonzero().flatten().tolist()
    difference = (LOGITS.double() * PROGRAM.scale - exact).abs().max() / (exact.max() - exact.min())
    assert agreement.logit_difference == pytest.approx(float(difference))


def test_only_the_first_images_are_checked_if_asked():
    agreement = replay(NETWORK, make.batches(24, batch=8), checked=10)
    assert agreement.images == 24
    assert next(site for site in agreement.sites if site.site == "logits").values == 16 * 4


def test_the_smallest_width_keeps_top1_and_so_does_every_wider_one():
    network = make.tiny(policy="everything", branches=2)
    batches = make.batches(64, batch=64)
    width, table = smallest_width(network, batches, 2.0, range(2, 13))
    assert [row["fixed_point_bits"] for row in table] == list(range(2, 13))
    for row in table:
        program = compile_network(network, (3, 8, 8), Widths(fixed_point_bits=row["fixed_point_bits"])).program
        images, labels = next(batches.in_order())
        assert row["top1"] == pytest.approx(100 * float((run(program, images).argmax(1) == labels).float().mean()))
        if row["fixed_point_bits"] >= width:
            assert row["top1"] >= row["top1_graph"] - 2.0
    narrower = [row for row in table if row["fixed_point_bits"] == width - 1]
    assert not narrower or narrower[0]["top1"] < narrower[0]["top1_graph"] - 2.0
