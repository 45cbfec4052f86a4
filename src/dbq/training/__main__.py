"""python -m dbq.training KEY: train one pretrain entry, experiment, row of a sweep or ablation without notebooks and without DVC."""

import argparse
import time
from pathlib import Path

from dbq.errors import DbqError, main_with_errors
from dbq.settings import resolve as config
from dbq.training import checkpoints, results, runs, sweeps
from dbq.training.loop import OutOfTime


def main():
    parser = argparse.ArgumentParser(prog="python -m dbq.training", description=__doc__)
    parser.add_argument("key", help="a key of pretrain, experiments or ablations in params.yaml, or sweep-KEY-ROW")
    parser.add_argument("--params", default="params.yaml", help="params.yaml, or the same tree as JSON")
    parser.add_argument("--profile", help="instead of the profile in params.yaml")
    parser.add_argument("--data", type=Path, help="prepared data set (default data/prepared/PROFILE/DATASET)")
    parser.add_argument("--float", type=Path, dest="float_model", help="float model (default runs/PROFILE/models/pretrain-KEY.pt)")
    parser.add_argument("--checkpoints", type=Path, default=Path("checkpoints"))
    parser.add_argument("--out", type=Path, help="also write model and result files there")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's)")
    parser.add_argument("--seed", type=int, help="only this seed of the experiment")
    parser.add_argument("--minutes", type=float, help="stop before an epoch that wouldn't end within this time")
    arguments = parser.parse_args()
    try:
        train(arguments)
    except OutOfTime as message:
        print(message)


def train(arguments) -> None:
    params = config.read(arguments.params)
    profile = config.check_profile(arguments.profile or config.lookup(params, "profile"))
    deadline = None if arguments.minutes is None else time.monotonic() + 60 * arguments.minutes
    is_float = arguments.key in config.lookup(params, "pretrain")
    is_ablation = arguments.key in config.lookup(params, "ablations")
    entry = config.training_of(params, profile, arguments.key)
    setting = runs.Setting(
        data=arguments.data or Path("data/prepared") / profile / entry.dataset,
        checkpoints=arguments.checkpoints, device=arguments.device, threads=arguments.threads, deadline=deadline,
    )  # fmt: skip
    if is_float:
        run = runs.train_float(entry, setting)
        if arguments.out:
            results.write_float(run, entry, arguments.out, arguments.out / "model.pt")
        return
    path = arguments.float_model or Path("runs") / profile / "models" / f"pretrain-{entry.start}.pt"
    if path.exists():
        float_state = checkpoints.load(path)["state"]
    else:
        print(f"{path} isn't there: the float network comes first")
        float_state = runs.train_float(config.pretrain(params, profile, entry.start), setting).network.state_dict()
    seeds = entry.seeds if arguments.seed is None else [arguments.seed]
    if not set(seeds) <= set(entry.seeds):
        raise DbqError(f"--seed: {arguments.seed} is not a seed of {entry.key}", f"its seeds are {entry.seeds}")
    if arguments.key in config.sweep_rows(params):
        for seed in seeds:
            sweeps.outcome(entry, seed, float_state, setting)
        return
    finished = [runs.train_quantized(entry, seed, float_state, setting, test=not is_ablation) for seed in seeds]
    if arguments.out and not is_ablation:
        results.write_quantized(finished, entry, arguments.out, arguments.out / "model.pt")


if __name__ == "__main__":
    raise SystemExit(main_with_errors(main))
