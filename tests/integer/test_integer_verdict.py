"""The verdict on a network: what it compares, what it writes, and what it refuses."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import quantized_networks as make

from dbq.errors import DbqError
from dbq.integer import verdict
from dbq.integer.compile import Widths
from dbq.integer.replay import replay, width_table

SETTINGS = SimpleNamespace(fixed_point_bits=14, accumulator_bits=32, checked_images=8, batch_size=8, top1_bound=0.5)


def test_a_verdict_is_the_replay_and_the_width_of_validation_images(tmp_path):
    network, test, validation = make.tiny(), make.batches(24), make.batches(16, seed=5)
    found = verdict.judge(network, make.Tiny(), test, validation, SETTINGS)
    assert found.agreement == replay(network, test, Widths(14, 32), checked=8)
    assert found.widths == width_table(network, validation, (4, 8, 12, 14, 16, 24))
    assert (found.width_images, found.bound) == (16, 100 / 24), "one image of 24 is more than the bound"
    assert found.speed_ratio > 0
    verdict.demand(found, "tested")
    verdict.write(found, tmp_path)
    written = json.loads((tmp_path / "engine.json").read_text())
    assert written == json.loads(json.dumps(found.as_dict()))
    assert (written["unexplained"], written["images"], len(written["accumulators"])) == (0, 24, 5)
    worse = replace(found.agreement, top1_engine=found.agreement.top1_float64 - 4.2)
    with pytest.raises(DbqError, match=r"^rows\.tested: the integers give .* \(bound 4\.17 points\), 0 integers"):
        verdict.demand(replace(found, agreement=worse), "tested")
    found.agreement.sites[0].unexplained = 1
    with pytest.raises(DbqError, match=r"^rows\.tested: .* 1 integers that rounding doesn't explain"):
        verdict.demand(found, "tested")


def test_a_fingerprint_changes_with_what_is_counted_and_what_is_replayed():
    network, images = make.tiny(), make.images(4)
    settings = SimpleNamespace(reading="adder_only", count_bias=False, scale_bits=8)
    own = verdict.fingerprint(network, images, 8, settings)
    assert own == verdict.fingerprint(make.tiny(), images, 8, settings) and len(own) == 64
    others = [
        verdict.fingerprint(network, images.flip(0), 8, settings), verdict.fingerprint(network, images, 8, settings, Widths(12)),
        verdict.fingerprint(network, images, 8, SimpleNamespace(reading="adder_only", count_bias=True, scale_bits=8)),
    ]  # fmt: skip
    assert len({own, *others}) == 4
