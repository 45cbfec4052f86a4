"""Commands around training: check, prepare, train, campaign, canary."""

import os
import time
from pathlib import Path
from typing import Annotated

import typer

from dbq.errors import DbqError

Params = Annotated[Path, typer.Option(help="params.yaml, or the same tree as JSON")]
Profile = Annotated[str | None, typer.Option(help="instead of the profile in params.yaml")]
Data = Annotated[Path, typer.Option(help="folder of PROFILE/DATASET folders, as `prepare` writes them")]
Checkpoints = Annotated[Path, typer.Option(help="where trainings are kept and taken up again")]
Device = Annotated[str, typer.Option(help="cpu, cuda or cuda:1")]
Minutes = Annotated[float | None, typer.Option(help="time box: no epoch is begun that wouldn't end within it", min=0.0)]
PREPARED, KEPT, FILE = Path("data/prepared"), Path("checkpoints"), Path("params.yaml")


def check(params: Params = FILE, profile: Profile = None) -> None:
    """Check all of params.yaml, and list what its profile runs."""
    plan = plan_of(params, profile)
    for name, section in (("data set", plan.datasets), ("float network", plan.starts), ("row", plan.rows)):
        for key, planned in section.items():
            seeds = f"seeds {planned.settings.seeds}" if name == "row" and planned.reason is None else ""
            typer.echo(f"{name:14s} {key:45s} {'left out: ' + planned.reason if planned.reason else seeds}".rstrip())


def prepare(dataset: str, params: Params = FILE, profile: Profile = None, data: Data = PREPARED) -> None:
    """Obtain a data set, carve its validation split and write it as arrays."""
    from dbq import datasets

    plan = plan_of(params, profile)
    if dataset not in plan.datasets:
        raise DbqError(f"no data set {dataset!r} in the profile {plan.profile}", f"there are {', '.join(plan.datasets)}")
    planned = plan.datasets[dataset]
    if reason := datasets.at_hand(planned.settings):
        raise DbqError(f"{dataset}: {reason}", "choose another data set")
    datasets.prepare(dataset, plan.profile, planned.settings, data / plan.profile / dataset)


def train(
    key: Annotated[str, typer.Argument(help="a key of `rows` or `starts`")],
    params: Params = FILE, profile: Profile = None, data: Data = PREPARED, checkpoints: Checkpoints = KEPT, device: Device = "cpu",
    seed: Annotated[int | None, typer.Option(help="this seed of the row alone")] = None, minutes: Minutes = None,
    out: Annotated[Path | None, typer.Option(help="write model and result files there, too")] = None,
) -> None:  # fmt: skip
    """Train a row, and first the float network that it starts from. A killed training goes on from its last epoch."""
    from dbq.training import results, runs
    from dbq.training.loop import OutOfTime
    from dbq.validity import identity

    plan = plan_of(params, profile)
    entry = plan.training(key)
    deadline = None if minutes is None else time.monotonic() + 60 * minutes
    place = runs.Place(data / plan.profile / entry.dataset, checkpoints, device=device, deadline=deadline)
    try:
        if key in plan.starts:
            run = runs.train_float(entry, place, identity.code_of(entry))
            if out:
                results.write_float(run, entry, out)
            return
        if seed is not None and seed not in entry.seeds:
            raise DbqError(f"--seed: {seed} is no seed of {key}", f"its seeds are {entry.seeds}")
        start = plan.start(entry.start)
        beginning = runs.beginning_of(runs.train_float(start, place, identity.code_of(start)), start.key)
        seeds = entry.seeds if seed is None else [seed]
        finished = [runs.train_row(entry, one, beginning, place, identity.code_of(entry)) for one in seeds]
        if out:
            results.write_row(finished, entry, out)
    except OutOfTime as message:
        typer.echo(message)


def campaign(
    minutes: Annotated[float, typer.Option(help="time box", min=0.1)],
    params: Params = FILE, profile: Profile = None, data: Data = PREPARED, checkpoints: Checkpoints = KEPT, device: Device = "cpu",
    parallel: Annotated[int | None, typer.Option(help="trainings at once; default: as many as the device holds", min=1)] = None,
    only: Annotated[list[str] | None, typer.Option(help="a key to train, with what it starts from; may be repeated")] = None,
    dry_run: Annotated[bool, typer.Option(help="print the order and where each training stands")] = False,
) -> None:  # fmt: skip
    """The trainings of a profile in order of value, several at once, within a time box."""
    from dbq.training.campaign import Campaign, most_at_once, tasks_of

    plan = plan_of(params, profile)
    tasks = tasks_of(plan, only)
    several = parallel or most_at_once(device)
    made = Campaign(plan, checkpoints, data, device, several, time.monotonic() + 60 * minutes, str(params))
    rows = [made.standing(task) for task in tasks] if dry_run else made.run(tasks)
    for row in rows:
        result = f"top1 {row['top1']:.2f} %" if row.get("top1") is not None else row.get("message", "")
        typer.echo(f"{row['state']:9s} {row['epochs']:4d} epochs  {row['key']} seed {row['seed']}  {result}".rstrip())
    if any(row["state"] == "failed" for row in rows):
        raise DbqError("some trainings failed", f"their logs are in {checkpoints / 'logs'}")


def canary(record: Annotated[bool, typer.Option(help="add this commit to results/canary.json")] = False) -> None:
    """Train some steps of every method and compare the weights with the last record: does the code still compute the same?"""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from dbq.validity import canary as steps
    from dbq.validity import identity

    found = steps.run(typer.echo)
    equal, different = steps.compare(found)
    if record:
        commit = identity.commit()
        if " " in commit or commit == "unknown":
            raise DbqError(f"the commit is {commit!r}, so the record would name code that nobody can get", "commit src first")
        steps.write(found, commit)
    if different:
        raise DbqError(f"other weights than the last record of this machine: {', '.join(different)}", "find the change that did it")
    typer.echo(f"{len(equal)} of {len(found)} subjects equal the last record of this machine; the others are new")


def trained(plan, key: str, seed: int | None, data: Path, checkpoints: Path):
    """(finished run of one seed, row, place) from the checkpoints; what isn't finished is trained first."""
    from dbq.training import runs
    from dbq.validity import identity

    row = plan.row(key)
    if seed is not None and seed not in row.seeds:
        raise DbqError(f"--seed: {seed} is no seed of {key}", f"its seeds are {row.seeds}")
    place, start = runs.Place(data / plan.profile / row.dataset, checkpoints), plan.start(row.start)
    beginning = runs.beginning_of(runs.train_float(start, place, identity.code_of(start)), start.key)
    return runs.train_row(row, row.seeds[0] if seed is None else seed, beginning, place, identity.code_of(row)), row, place


def plan_of(params: Path, profile: str | None):
    """The plan of a profile."""
    from dbq import datasets, settings

    return settings.plan(settings.read(params), profile, datasets.at_hand)


COMMANDS = (check, prepare, train, campaign, canary)
