"""A change of params.yaml makes exactly those stages stale that it touches."""

import copy

import pytest

import resolve
from dbq import settings
from dbq.validity import equivalence

PARAMS = settings.read("tests/params.yaml")
LAST = {"tables", "report"}


def files(params) -> dict[str, dict]:
    return {f"{stage.name}@{stage.key}" if stage.key else stage.name: stage.to_json() for stage in resolve.stages(settings.plan(params))}


def changed(*path, value):
    params = copy.deepcopy(PARAMS)
    target = params
    for name in path[:-1]:
        target = target[name]
    target[path[-1]] = value
    return params


BEFORE = files(PARAMS)


@pytest.mark.parametrize(
    ("path", "value", "stale"),
    [
        (("rows", "net-twn", "schedule"), {"learning_rate": 0.5}, {"quantize@net-twn", "engine@net-twn"}),
        (("rows", "net-dbq-2t", "quantizer"), {"temperature": 5.0}, {"quantize@net-dbq-2t", "engine@net-dbq-2t"}),
        (("quantizers", "twn", "scales"), "layer", {"quantize@net-twn", "engine@net-twn", "quantize@person-twn", "engine@person-twn"}),
        (
            ("profiles", "tiny", "rows"),
            {**PARAMS["profiles"]["tiny"]["rows"], "net-dbq-2t": 3},
            {"quantize@net-dbq-2t", "engine@net-dbq-2t"},
        ),
        (("cost", "scale_bits"), 9, {f"engine@{key}" for key in PARAMS["rows"]}),
        (("starts", "other", "seed"), 6, {"pretrain@other"}),
        (
            ("profiles", "tiny", "datasets", "vww", "split_seed"),
            9,
            {"prepare@vww", "pretrain@person", "quantize@person-twn", "engine@person-twn"},
        ),
        (("overhead", "steps"), 7, {"overhead"}),
    ],
)
def test_a_change_makes_exactly_the_stages_stale_that_it_touches(path, value, stale):
    after = files(changed(*path, value=value))
    assert after.keys() == BEFORE.keys()
    assert {name for name in BEFORE if BEFORE[name] != after[name]} - LAST == stale


def test_every_stage_has_a_file_and_a_digest_of_its_code():
    assert {name.partition("@")[0] for name in BEFORE} == {"prepare", "pretrain", "quantize", "engine", "overhead", "hardware", *LAST}
    assert all(len(one["code"]["stage"]) == 64 for one in BEFORE.values())
    assert BEFORE["quantize@net-twn"]["code"]["result"] != BEFORE["quantize@net-dbq-2t"]["code"]["result"]
    assert BEFORE["engine@tried-base"]["reason"] == "the row is judged on validation images"


def test_results_of_other_settings_code_or_history_are_found(tmp_path, monkeypatch):
    """check_results on a made-up result; each fault is named."""
    import check_results
    from dbq.files import write_json
    from dbq.validity import identity

    plan = settings.plan(PARAMS)
    row = plan.row("net-twn")
    own = {"settings": identity.of_settings(row), "data": "d", "code": identity.code_of(row), "start": "s"}
    head = identity.commit().split()[0]
    path = tmp_path / "results" / "tiny" / "metrics" / "quantize" / "net-twn" / "metrics.json"
    monkeypatch.setattr(check_results.subprocess, "run", lambda command, **_: type("Done", (), {"returncode": int(command[3] != head)}))

    def found(changes=None, **seed):
        write_json(path, {"status": "run", "seeds": [{"seed": 0, "top1": 50.0, "identity": own | (changes or {}), "commit": head} | seed]})
        return " ".join(check_results.faults(tmp_path, plan))

    assert found() == ""
    assert "other settings" in found({"settings": "x"})
    assert "not proven" in found({"code": "x"})
    monkeypatch.setattr(equivalence, "same", lambda *_: True)
    assert found({"code": "x"}) == ""
    assert "not in the history" in found(commit="0" * 40)
    tables = tmp_path / "results" / "tiny" / "tables"
    tables.mkdir()
    (tables / "accuracy.csv").write_text("key,n,top1_mean\nnet-twn,1,50.0000\nnet-dbq-2t,0,\n")
    assert found() == ""
    (tables / "accuracy.csv").write_text("key,n,top1_mean\nnet-twn,1,51.0000\nother,1,50.0\n")
    assert "top1_mean is 51.0000, its result says 50.0" in found()
    assert "other: no committed result" in found()
