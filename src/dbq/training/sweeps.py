"""One network and data set under the settings of several experiments, row beside row."""

from pathlib import Path

from dbq import config
from dbq.files import write_json
from dbq.training import certificates, results, runs


def run(params: dict, profile: str, key: str, float_state: dict, setting: runs.Setting) -> list[dict]:
    """Train every row of the sweep with all its seeds, or take it from its checkpoints.

    Returns one result (results.metrics) a row, with its certificates (a list a seed) and its resolved policy (a dict a layer). Raises
    DbqError, naming the row, for a violated certificate (dbq.training.certificates).
    """
    rows = []
    for name, (sweep, row) in config.sweep_rows(params).items():
        if sweep != key:
            continue
        experiment = config.sweep(params, profile, key, row)
        setting.log(f"{row}: {experiment.method}, policy {config.lookup(params, 'sweep_rows', row, 'policy')}")
        finished = [runs.train_quantized(experiment, seed, float_state, setting) for seed in experiment.seeds]
        certified = [certificates.certify(done, experiment.method) for done in finished]
        for found in certified:
            certificates.demand(found, name)
        policy = [layer.as_dict() for layer in finished[0].policy]
        rows.append({**results.metrics(experiment, finished), "row": row, "certificates": certified, "policy": policy})
    return rows


def write(rows: list[dict], folder) -> None:
    """FOLDER/metrics.json; the policy, which params.yaml decides and the report shows, is left out."""
    kept = [{name: value for name, value in row.items() if name != "policy"} for row in rows]
    write_json(Path(folder) / "metrics.json", {"status": "run", "rows": kept})
