"""The result files of the stage engine: a trained row's four costs and its replay in integers, or the committed ones that are valid."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from dbq import networks
from dbq.cost import network as cost
from dbq.datasets.arrays import Split
from dbq.datasets.arrays import load as load_data
from dbq.errors import NotRun
from dbq.files import read_json, read_sealed, write_json
from dbq.integer import verdict
from dbq.training import committed, runs
from dbq.validity import equivalence, identity

if TYPE_CHECKING:
    from dbq.settings import CostSettings, EngineSettings, Row

FILES = ("cost.json", "layers.csv", "engine.json", "planes.json")


def identity_of(trained: dict, cost_settings: CostSettings, engine: EngineSettings, code: str) -> dict:
    """What decides the result. trained: the line of the seed in the row's metrics.json. code: the digest of the code that counts."""
    settings = {"cost": cost_settings.model_dump(mode="json"), "engine": engine.model_dump(mode="json")}
    start = identity.fingerprint("row", trained["seed"], trained["identity"])
    return {"settings": identity.digest(settings), "data": trained["identity"]["data"], "code": code, "start": start}


def write(row: Row, model, data, cost_settings: CostSettings, engine: EngineSettings, code: str, out, results=None) -> Path | None:
    """Count the row's first trained seed, replay it, and write FILES to the folder out.

    model: the folder of the stage quantize. data: the prepared images. results: committed results of the profile, for a row whose own
    result is committed and whose weights aren't; their folder is returned then, and None otherwise. Raises DbqError where integers and
    training graph differ by more than the settings allow, after the files are written.
    """
    out = Path(out)
    found = read_json(Path(model) / "metrics.json")
    if found["status"] != "run":
        raise NotRun(found["reason"], f"run `dvc repro quantize@{row.key}`")
    trained = {line["seed"]: line for line in found["seeds"]}
    content = read_sealed(Path(model) / "model.pt")
    if not content["states"]:
        first = next(iter(trained.values()))
        return _committed(row, first["seed"], identity_of(first, cost_settings, engine, code), results, out)
    seed, state = next((int(seed), state) for seed, state in content["states"].items())
    prepared = load_data(Path(data), ("val", "test"))
    network = runs.rebuild(row, state, content["image_size"])
    write_json(out / "planes.json", cost.check_planes(network))
    counted = cost.count(network, content["image_size"], row.activation_bits, cost_settings)
    cost.write(counted, row, out)
    own = identity_of(trained[seed], cost_settings, engine, code)
    write_json(out / "cost.json", {**read_json(out / "cost.json"), "seed": seed, "identity": own})

    def batches(split: Split):
        return runs.batches(split, prepared.manifest, engine.batch_size, "cpu")

    validation = prepared.splits["val"]
    validation = Split(validation.images[: engine.width_images], validation.labels[: engine.width_images])
    float_network = networks.build(row.network, row.dataset_settings.classes, row.dataset_settings.form)
    judged = verdict.judge(network, float_network, batches(prepared.splits["test"]), batches(validation), engine)
    verdict.write(judged, out)
    verdict.demand(judged, row.key)
    return None


def _committed(row: Row, seed: int, own: dict, results, out: Path) -> Path:
    folder = committed.folder(results, "engine", row.key)
    found = read_json(folder / "cost.json") if (folder / "cost.json").is_file() else {}
    recorded = found.get("identity") or {}
    valid = found.get("seed") == seed and all(recorded.get(name) == own[name] for name in ("settings", "data", "start"))
    if not valid or not equivalence.same(recorded["code"], own["code"]):
        raise NotRun(
            f"rows.{row.key}: seed {seed} has no valid count in {folder}, and its trained weights weren't kept",
            f"train it: python -m dbq train {row.key} --profile {row.profile}",
        )
    for name in FILES:
        if (folder / name).is_file():
            shutil.copyfile(folder / name, out / name)
    return folder
