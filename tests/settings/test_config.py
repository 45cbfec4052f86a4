"""params.yaml: what is accepted, and one clear error for what is not."""

import copy
import re

import pytest

from dbq.errors import DbqError
from dbq.settings import resolve as config

DBQ = ("experiments", "resnet20-cifar10-dbq-2t")


@pytest.fixture
def params():
    return config.read("params.yaml")


def edit(params, path, value):
    changed = copy.deepcopy(params)
    target = changed
    for name in path[:-1]:
        target = target[name]
    if value is KeyError:
        del target[path[-1]]
    else:
        target[path[-1]] = value
    return changed


def test_the_committed_params_are_valid(params):
    config.check(params)


@pytest.mark.parametrize(
    ("path", "value", "names"),
    [
        (("profile",), "tiny", r"profile.*'tiny'.*smoke"),
        ((*DBQ, "network"), "resnet19", r"experiments\.resnet20-cifar10-dbq-2t\.network.*'resnet19'.*resnet20"),
        ((*DBQ, "dataset"), "cifar11", r"datasets\.cifar11"),
        ((*DBQ, "method"), "dbx", r"method.*'dbx'.*dbq"),
        ((*DBQ, "colour"), 1, r"unknown key colour.*known keys"),
        ((*DBQ, "policy"), "lax", r"policies\.lax"),
        ((*DBQ, "schedule"), "long", r"schedules\.long"),
        ((*DBQ, "policy"), KeyError, r"missing key policy"),
        ((*DBQ, "activation_bits"), "8", r"activation_bits.*'8'.*int"),
        ((*DBQ, "activation_bits"), True, r"activation_bits.*True.*int"),
        ((*DBQ, "activation_bits"), 1, r"activation_bits.*between 2 and 32"),
        ((*DBQ, "seeds", "smoke"), [], r"seeds\.smoke.*at least one seed"),
        ((*DBQ, "seeds", "smoke"), [1, 1], r"seeds\.smoke.*each once"),
        ((*DBQ, "seeds", "smoke"), ["a"], r"seeds\.smoke.*\['a'\]"),
        ((*DBQ, "seeds", "smoke"), 3, r"seeds.*'smoke': 3"),
        ((*DBQ, "seeds"), [0, 1], r"seeds.*dict"),
        ((*DBQ, "seeds"), {"cifar100": [0]}, r"profile.*cifar100"),
        ((*DBQ, "quantizer"), {"branches": 4}, r"quantizer\.branches.*between 1 and 3"),
        ((*DBQ, "quantizer"), {"branch": 2}, r"quantizer: unknown key branch"),
        ((*DBQ, "quantizer"), {"temperature": {"schedule": "cosy", "start": 1.0, "end": 2.0}}, r"temperature\.schedule.*cosy"),
        ((*DBQ, "training"), {"learning_rate": "1e-3"}, r"training\.learning_rate.*1\.0e-3"),
        ((*DBQ, "training"), {"learning_rate": float("nan")}, r"learning_rate.*finite"),
        ((*DBQ, "training"), {"epochs": -1}, r"epochs.*at least 0"),
        (("schedules", "finetune", "smoke", "batch_size"), 1, r"schedules\.finetune\.smoke\.batch_size"),
        (("datasets", "cifar10", "smoke", "source"), "mnist", r"datasets\.cifar10\.smoke\.source.*digits"),
        (("datasets", "cifar10", "smoke", "augment"), {"crop": 4}, r"augment.*pad and flip"),
        (("datasets", "cifar10", "smoke"), None, r"datasets\.cifar10\.smoke: null"),
        (("policies", "standard", "first"), 9, r"policies\.standard\.first"),
        (("cost", "reading"), "free", r"cost\.reading.*adder_only"),
        (("external_weights", "resnet20-12fca82f", "network"), "mobilenet_v1", r"weights.*mobilenet_v1"),
    ],
)
def test_bad_values_name_the_key_and_the_remedy(params, path, value, names):
    with pytest.raises(DbqError) as caught:
        config.check(edit(params, path, value))
    assert re.search(names, str(caught.value)), str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.remedy


def test_a_key_that_the_stage_does_not_declare_is_an_error(params):
    with pytest.raises(DbqError, match=r"policies.*declare it"):
        config.experiment({name: part for name, part in params.items() if name != "policies"}, "smoke", DBQ[1])


def test_overrides_change_only_what_they_name(params):
    changed = edit(params, (*DBQ, "training"), {"epochs": 7})
    before, after = (config.experiment(tree, "smoke", DBQ[1]).training for tree in (params, changed))
    assert after.epochs == 7
    assert config.fingerprint(before) != config.fingerprint(after)
    assert after.learning_rate == before.learning_rate


def test_missing_and_broken_files(tmp_path):
    with pytest.raises(DbqError, match="no such file"):
        config.read(tmp_path / "params.yaml")
    (tmp_path / "params.yaml").write_text("a: [1")
    with pytest.raises(DbqError, match="not valid YAML"):
        config.read(tmp_path / "params.yaml")


def test_a_later_setting_leaves_the_fingerprints_of_earlier_results_as_they_were(params):
    """Results in results/ were measured before activations.gradient existed, with what is now its default."""
    at = ("activations", "gradient")
    key = DBQ[1]
    absent, default, other = (
        config.settings_of(config.experiment(edit(params, at, value), "smoke", key)) for value in (KeyError, "input", "output")
    )
    assert absent == default != other
