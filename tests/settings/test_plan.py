"""Presets, profiles and rows of params.yaml, and what is said of wrong ones."""

import copy
import re

import pytest

from dbq import settings
from dbq.errors import DbqError
from dbq.files import write_json
from dbq.settings import stage

PARAMS = settings.read("tests/params.yaml")
ROW = ("rows", "net-dbq-2t")


def edit(path, value):
    """The mapping with one value changed, or taken out (KeyError)."""
    changed = copy.deepcopy(PARAMS)
    target = changed
    for name in path[:-1]:
        target = target[name]
    if value is KeyError:
        del target[path[-1]]
    else:
        target[path[-1]] = value
    return changed


def test_a_row_has_its_presets_its_profile_and_its_own_changes():
    plan = settings.plan(PARAMS)
    first, second = plan.row("net-dbq-2t"), plan.row("net-twn")
    assert (first.method, first.branches, first.weight_bits, first.seeds) == ("dbq", 2, 4, [0, 1])
    assert (first.training.epochs, first.training.batch_size, first.training.learning_rate) == (2, 32, 0.02)
    assert (second.training.epochs, second.seeds, second.policy.first) == (3, [0], "method")
    assert plan.row("net-distilled").training.distillation == 0.7
    assert plan.row("net-distilled").quantizer.temperature.end == 3.0
    assert plan.start("net").training.epochs == 1  # its own preset, after what the profile changes in the one that it extends


def test_a_row_extends_another_one_and_is_compared_with_it():
    plan = settings.plan(PARAMS)
    base, rate, soft = (plan.row(f"tried-{name}") for name in ("base", "rate", "soft"))
    assert (base.compared_with, rate.compared_with, soft.compared_with) == (None, "tried-base", "tried-rate")
    assert (rate.training.learning_rate, soft.training.learning_rate) == (0.05, 0.05)
    assert rate.quantizer == base.quantizer
    assert (soft.quantizer.forward, soft.quantizer.temperature.schedule, soft.quantizer.branches) == ("soft", "exponential", 1)
    assert {one.judged for one in (base, rate, soft)} == {"validation"}


def test_a_profile_extends_another_one_and_its_rows_replace_its_rows():
    plan = settings.plan(PARAMS, "large")
    assert plan.row("net-dbq-2t").seeds == [0]
    assert plan.row("net-dbq-2t").training.epochs == 2
    assert plan.start("net").weights.file == "net.th"


def test_what_is_not_run_says_why():
    plan = settings.plan(PARAMS, "large", lambda data: "not at hand: get it" if data.source != "digits" else None)
    assert plan.rows["person-twn"].reason == plan.starts["person"].reason == "not at hand: get it"
    assert "no row" in plan.starts["other"].reason
    with pytest.raises(DbqError, match=r"rows\.person-twn: not run in the profile large: not at hand"):
        plan.row("person-twn")


@pytest.mark.parametrize(
    ("path", "value", "names"),
    [
        (("profile",), "smok", "no profile 'smok'"),
        (("profile",), "larg", "did you mean large"),
        (("colour",), 1, "unknown key colour"),
        (("cost",), KeyError, "cost: missing"),
        (("rows",), None, "rows: not a mapping"),
        ((*ROW, "start"), "nett", r"rows\.net-dbq-2t\.start: no start 'nett' -> did you mean net"),
        ((*ROW, "start"), KeyError, "no start None"),
        ((*ROW, "colour"), 1, r"rows\.net-dbq-2t: unknown key colour -> known keys are"),
        ((*ROW, "policy"), "lax", "no policy 'lax'"),
        ((*ROW, "schedule"), "long", "no schedule 'long'"),
        ((*ROW, "quantizer"), "dbq-4t", "no quantizer 'dbq-4t' -> did you mean"),
        ((*ROW, "quantizer"), {"branches": 4}, r"quantizer\.branches: 4 -> .*less than or equal to 3"),
        ((*ROW, "quantizer"), {"branch": 2}, "branch: unknown key -> did you mean branches"),
        ((*ROW, "activation_bits"), "8", "activation_bits: '8' -> should be a valid integer"),
        ((*ROW, "activation_bits"), True, "activation_bits: True"),
        ((*ROW, "activation_bits"), 1, "activation_bits: 1 -> .*greater than or equal to 2"),
        ((*ROW, "judged"), "train", "judged: 'train' -> should be 'test' or 'validation'"),
        ((*ROW, "schedule"), {"learning_rate": "1e-3"}, r"learning_rate: '1e-3' is text -> .*1\.0e-3"),
        ((*ROW, "schedule"), {"learning_rate": float("nan")}, "learning_rate: nan -> .*finite"),
        ((*ROW, "schedule"), {"warmup_epochs": 50}, "warmup_epochs 50 exceed epochs 2"),
        ((*ROW, "schedule"), {"milestones": [-1]}, r"milestones\.0: -1"),
        ((*ROW, "activations"), {"k": 1e30}, r"activations\.k"),
        (("rows", "x;touch P;"), {"start": "net"}, "can't name a stage"),
        (("rows", "/absolute/path"), {"start": "net"}, "can't name a stage"),
        (("rows", "a" * 81), {"start": "net"}, "can't name a stage"),
        (("rows", "other"), {"start": "net", "quantizer": "twn"}, "a start has this key"),
        (("rows", 123), {"start": "net"}, "can't name a stage"),
        (("rows", "nameless"), {"start": "net"}, "ends with no preset's name"),
        (("rows", "tried-base", "extends"), "tried-soft", "extends itself"),
        (("policies", "standard", "first"), 9, r"policy\.first: 9"),
        (("policies", "standard", "other"), 8, "no kind of layer is left to the method"),
        (("schedules", "finetune", "extends"), "bas", "no schedule 'bas' -> did you mean base"),
        (("sources", "digits", "augment"), {"pad": -3, "flip": False}, r"augment\.pad: -3"),
        (("profiles", "tiny", "datasets", "cifar10", "classes"), "ten", r"datasets\.cifar10\.classes"),
        (("profiles", "tiny", "datasets", "cifar10"), {}, "no source"),
        (("profiles", "tiny", "rows"), {"*": -1}, r"rows\.\*: -1 seeds"),
        (("profiles", "large", "weights"), {"other": "published"}, "published holds a resnet20"),
        (("profiles", "large", "schedules"), {"bse": {"epochs": 1}}, "no schedule 'bse'"),
        (("external_weights", "published", "sha256"), "12", "sha256: '12'"),
        (("cost", "reading"), "free", "cost.reading: 'free'"),
        (("overhead", "methods"), ["dbq-9t"], "overhead.methods"),
    ],
)
def test_a_fault_is_one_line_with_key_and_remedy(path, value, names):
    with pytest.raises(DbqError) as caught:
        settings.plan(edit(path, value))
    errors = getattr(caught.value, "errors", [caught.value])
    assert any(re.search(names, str(error)) for error in errors if error.remedy), str(caught.value)
    assert len(str(caught.value).splitlines()) == len(errors)


def test_all_faults_are_told_at_once():
    params = edit((*ROW, "quantizer"), {"branches": 4})
    params["rows"]["net-twn"]["policy"] = "lax"
    params["overhead"]["steps"] = 0
    with pytest.raises(settings.Faults) as caught:
        settings.plan(params)
    assert len(caught.value.errors) == 3


def test_a_stage_file_gives_the_settings_back(tmp_path):
    plan = settings.plan(PARAMS)
    row = plan.row("tried-soft")
    written = stage.Stage("quantize", "tiny", True, row.key, row=row, inputs={"data": "there"}, code={"stage": "1", "result": "2"})
    tables = stage.Stage("tables", "tiny", True, plan=plan, cost=plan.cost)
    for one in (written, tables):
        write_json(tmp_path / "stage.json", one.to_json())
        read = stage.load(tmp_path / "stage.json")
        assert read.to_json() == one.to_json()
        assert (read.row, read.inputs) == (one.row, one.inputs)
    assert list(read.plan.rows) == list(plan.rows)
    assert read.plan.rows["net-dbq-2t"] == plan.rows["net-dbq-2t"]


@pytest.mark.parametrize("text", ["", "{", '{"stage": "quantize"}', "[1]"])
def test_a_damaged_stage_file_is_one_error(tmp_path, text):
    (tmp_path / "stage.json").write_text(text)
    with pytest.raises(DbqError, match=r"stage\.json: damaged.*dvc repro settings"):
        stage.load(tmp_path / "stage.json")
