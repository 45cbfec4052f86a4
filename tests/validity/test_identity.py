"""What is part of a result's identity, and when code counts as equivalent."""

import json

import pytest

from dbq import settings
from dbq.validity import equivalence, identity

PARAMS = settings.read("tests/params.yaml")
ROW = settings.plan(PARAMS).row("net-dbq-2t")
START = settings.plan(PARAMS).start("net")


@pytest.mark.parametrize(
    ("changes", "counts"),
    [
        ({"key": "other"}, False),
        ({"seeds": [4]}, False),
        ({"judged": "validation"}, False),
        ({"compared_with": "x"}, False),
        ({"activation_bits": 4}, True),
        ({"network": "mobilenet_v1"}, True),
        ({"training": ROW.training.model_copy(update={"threads": 2})}, True),
        ({"training": ROW.training.model_copy(update={"kernels": "compiled"})}, True),
        ({"policy": ROW.policy.model_copy(update={"first": "method"})}, True),
        ({"quantizer": ROW.quantizer.model_copy(update={"scales": "channel"})}, True),
    ],
)
def test_what_decides_a_result_is_in_its_digest(changes, counts):
    assert (identity.of_settings(ROW.model_copy(update=changes)) != identity.of_settings(ROW)) == counts


def test_external_weights_are_what_they_are_whatever_the_schedule():
    weights = settings.plan(PARAMS, "large").start("net")
    longer = weights.model_copy(update={"training": weights.training.model_copy(update={"epochs": 77})})
    assert identity.of_settings(weights) == identity.of_settings(longer) != identity.of_settings(START)


def test_a_fingerprint_leaves_the_code_out():
    own = {"settings": "a", "data": "b", "code": "c", "start": None}
    assert identity.fingerprint("float", 0, own) == identity.fingerprint("float", 0, own | {"code": "d"})
    assert len({identity.fingerprint("float", seed, own | {"data": data}) for seed in (0, 1) for data in ("b", "x")}) == 4


def record(tmp_path, *runs):
    """runs: (machine, {subject: (code, weights)})."""
    content = [
        {
            "machine": machine,
            "commit": str(number),
            "subjects": {name: {"code": code, "weights": weights} for name, (code, weights) in one.items()},
        }
        for number, (machine, one) in enumerate(runs)
    ]
    (tmp_path / "canary.json").write_text(json.dumps(content))
    return tmp_path / "canary.json"


def test_code_is_equivalent_only_where_one_machine_got_the_same_weights(tmp_path):
    path = record(
        tmp_path,
        ("one", {"dbq": ("a", "1"), "twn": ("t", "9")}),
        ("one", {"dbq": ("b", "1"), "twn": ("u", "8")}),
        ("two", {"dbq": ("b", "5")}),
        ("two", {"dbq": ("c", "5")}),
        ("three", {"dbq": ("d", "1")}),
    )
    assert equivalence.same("x", "x", path)
    assert equivalence.same("a", "b", path)
    assert equivalence.same("a", "c", path)  # by way of b
    assert not equivalence.same("a", "d", path)  # equal weights, but of another machine
    assert not equivalence.same("t", "u", path)
    assert not equivalence.same("a", "b", tmp_path / "missing.json")
