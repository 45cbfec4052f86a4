"""One network and data set under the settings of several experiments, row beside row."""

from pathlib import Path

from dbq import config
from dbq.config import Experiment
from dbq.files import read_json, write_json
from dbq.training import certificates, results, runs


def run(params: dict, profile: str, key: str, float_state: dict, setting: runs.Setting) -> list[dict]:
    """Train every row of the sweep with all its seeds, or take it from its outcomes or checkpoints.

    Returns one result (results.metrics) a row, with its certificates (a list a seed) and its resolved policy (a dict a layer). Raises
    DbqError, naming the row, for a violated certificate (dbq.training.certificates).
    """
    rows = []
    for name, (sweep, row) in config.sweep_rows(params).items():
        if sweep != key:
            continue
        experiment = config.sweep(params, profile, key, row)
        setting.log(f"{row}: {experiment.method}, policy {config.lookup(params, 'sweep_rows', row, 'policy')}")
        outcomes = [outcome(experiment, seed, float_state, setting) for seed in experiment.seeds]
        for one in outcomes:
            certificates.demand(one["certificates"], name)
        summaries = [one["summary"] for one in outcomes]
        certified = [one["certificates"] for one in outcomes]
        rows.append({**results.metrics(experiment, summaries), "row": row, "certificates": certified, "policy": outcomes[0]["policy"]})
    return rows


def outcome(experiment: Experiment, seed: int, float_state: dict, setting: runs.Setting) -> dict:
    """What a report says of one training: summary, certificates, policy.

    It is written beside the checkpoint, as JSON of the same name, and adopted from there: the models of a sweep weigh hundreds of
    megabytes, and so what is said of them can come from the machine that trained them without them.
    """
    manifest = read_json(setting.data / "manifest.json")
    identity = runs.quantized_identity(experiment, seed, float_state, manifest)
    checkpoint = runs.checkpoint_of(experiment, seed, identity, setting.checkpoints)
    path = checkpoint.path.with_suffix(".json")
    if path.exists():
        found = read_json(path)
        if found["fingerprint"] == checkpoint.fingerprint:
            setting.log(f"{path}: adopted, from {found['summary']['device']}")
            return found
    done = runs.train_quantized(experiment, seed, float_state, setting)
    done.network.cpu()
    result = {
        "fingerprint": checkpoint.fingerprint, "summary": results.summary(done), "provenance": done.provenance,
        "certificates": certificates.certify(done, experiment.method), "policy": [layer.as_dict() for layer in done.policy],
    }  # fmt: skip
    write_json(path, result)
    return result


def write(rows: list[dict], folder) -> None:
    """FOLDER/metrics.json; the policy, which params.yaml decides and the report shows, is left out."""
    kept = [{name: value for name, value in row.items() if name != "policy"} for row in rows]
    write_json(Path(folder) / "metrics.json", {"status": "run", "rows": kept})
