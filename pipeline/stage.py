"""Run one stage of dvc.yaml: execute its notebook, or write "not run" where the profile leaves it out.

    PYTHONPATH=src python pipeline/stage.py quantize                                # by DVC, which names the stage in DVC_STAGE
    PYTHONPATH=src python pipeline/stage.py quantize --key resnet20-cifar10-dbq-2t  # by hand, after `dvc repro settings`

A key names files, so it is checked here, however it arrives. This file imports the standard library alone: a stage that is not run takes
0.1 s. Exit status: 0 done or not run, 1 the notebook failed, 2 it couldn't be started or left a result out, 130 interrupted.
"""

import argparse
import json
import os
import re
import shutil
import sys
from dataclasses import dataclass
from html import escape
from pathlib import Path

KEY = re.compile(r"[a-z0-9][a-z0-9_.-]{0,79}")
NOT_RUN = "not run"
# stage -> the files that its notebook writes into its folder. Stages without a key come last.
RESULTS = {
    "prepare": ("manifest.json",),
    "pretrain": ("metrics.json", "history.csv", "model.pt"),
    "quantize": ("metrics.json", "history.csv", "model.pt"),
    "engine": ("cost.json", "layers.csv", "engine.json"),
    "overhead": ("metrics.json", "overhead.csv"),
    "hardware": ("hardware.csv", "hardware-trained.csv"),
    "tables": (),
    "report": (),
}
WITH_KEY = ("prepare", "pretrain", "quantize", "engine")


class Refused(Exception):
    """One line: what is wrong, and what to do."""


@dataclass(frozen=True)
class Job:
    """A stage of the profile, and where it reads and writes."""

    stage: str
    key: str | None
    profile: str
    settings: dict  # what the stage `settings` wrote for it

    @property
    def name(self) -> str:
        return f"{self.stage}-{self.key}" if self.key else self.stage

    @property
    def settings_file(self) -> Path:
        return settings_file(self.profile, self.stage, self.key)

    @property
    def reports(self) -> Path:
        return Path("runs", self.profile, "reports", self.name)

    @property
    def failed(self) -> Path:
        """Where the notebook stays if it fails."""
        return Path("runs", self.profile, "failed", f"{self.name}.ipynb")

    @property
    def folders(self) -> dict[str, Path]:
        """The folders that the stage fills, by the name of the notebook's parameter."""
        if self.stage == "tables":
            return {f"{name}_folder": Path("results", self.profile, name) for name in ("tables", "figures")}
        return {"out": Path("runs", self.profile, self.stage, *([self.key] if self.key else []))}

    @property
    def results(self) -> list[Path]:
        """What has to exist afterwards; a folder has to hold something."""
        files = [self.folders["out"] / name for name in RESULTS[self.stage]] if "out" in self.folders else list(self.folders.values())
        return [*files, *self.data]

    @property
    def data(self) -> list[Path]:
        """The folder of the prepared arrays, which is an output of `prepare`."""
        return [Path("data", "prepared", self.profile, self.key)] if self.stage == "prepare" else []


def settings_file(profile: str, stage: str, key: str | None) -> Path:
    folder = Path("runs", profile, "settings")
    return folder / stage / f"{key}.json" if key else folder / f"{stage}.json"


def main() -> int:
    try:
        job = read_job(*arguments())
        if job.settings["status"] == NOT_RUN:
            write_not_run(job, job.settings["reason"])
            print(f"not run: {job.settings['reason']}")
            return 0
    except Refused as refused:
        print(f"error: {refused}", file=sys.stderr)
        return 2
    # papermill and torch take seconds to import: a stage that isn't run doesn't pay for them
    from dbq.errors import main_with_errors
    from execute import run, run_report

    return main_with_errors(lambda: (run_report if job.stage == "report" else run)(job))


def arguments() -> tuple[str, str | None]:
    """The stage and its key, from the command line or from DVC_STAGE."""
    parser = argparse.ArgumentParser(description="Run one stage of dvc.yaml.", allow_abbrev=False)
    parser.add_argument("stage", choices=RESULTS, help="its name in dvc.yaml")
    parser.add_argument("--key", help="a data set, float network or row (default: the one that DVC names)")
    given = parser.parse_args()
    name, _, key = os.environ.get("DVC_STAGE", "").partition("@")
    return given.stage, given.key if given.key is not None else (key or None) if name == given.stage else None


def read_job(stage: str, key: str | None) -> Job:
    """Raises Refused for a key that can't name a file, and for settings that are missing or of another stage."""
    if (key is not None) != (stage in WITH_KEY):
        raise Refused(f"{stage}: {'a key is needed -> add --key KEY' if stage in WITH_KEY else 'it has no key -> leave --key out'}")
    if key is not None and not KEY.fullmatch(key):
        raise Refused(f"{ascii(key)[:90]} is no key -> use a-z, 0-9, `_`, `-` and `.`, at most 80 characters, a letter or a digit first")
    profile = read_profile()
    path = settings_file(profile, stage, key)
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
        if (settings["stage"], settings["key"], settings["profile"]) != (stage, key, profile):
            raise ValueError
        if settings["status"] == NOT_RUN:
            str(settings["reason"])
    except FileNotFoundError:
        raise Refused(f"{path}: no such file -> run `dvc repro settings`; is the key in params.yaml?") from None
    except (ValueError, KeyError, TypeError):
        raise Refused(f"{path}: damaged, or of another stage -> run `dvc repro settings`") from None
    return Job(stage, key, profile, settings)


def read_profile() -> str:
    """The value of `profile` in params.yaml, without a YAML parser: the stage `settings` has checked the file."""
    try:
        found = re.search(r"^profile:[ \t]*[\"']?([^\s\"'#]+)", Path("params.yaml").read_text(encoding="utf-8"), re.MULTILINE)
    except (OSError, UnicodeDecodeError) as error:
        raise Refused(f"params.yaml: {error} -> restore it with `git checkout params.yaml`") from None
    if not found or not KEY.fullmatch(found[1]):
        raise Refused("params.yaml: the key `profile` names no profile -> set it, as in `profile: smoke`")
    return found[1]


def write_not_run(job: Job, reason: str) -> None:
    """Every output exists and says so. No clock and no host in it: equal reasons give equal bytes."""
    marker = json.dumps({"status": NOT_RUN, "reason": reason}, indent=1, sort_keys=True) + "\n"
    for folder in (*job.folders.values(), *job.data):
        fresh(folder)
        (folder / ("manifest.json" if job.stage == "prepare" else "metrics.json")).write_text(marker, encoding="utf-8")
    fresh(job.reports)
    page = f'<!DOCTYPE html>\n<meta charset="utf-8">\n<title>not run</title>\n<p>Not run: {escape(reason)}.</p>\n'
    (job.reports / "report.html").write_text(page, encoding="utf-8")


def fresh(folder: Path) -> None:
    """An empty folder: what an earlier run left there is no result of this one."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)


if __name__ == "__main__":
    os.chdir(Path(__file__).parents[1])
    sys.exit(main())
