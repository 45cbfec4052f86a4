"""Prepare one data set from the command line; see dbq.datasets."""

import argparse
import sys

from dbq.errors import main_with_errors
from dbq.settings import datasets
from dbq.settings import resolve as config


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m dbq.datasets", description="Write a data set of params.yaml as arrays.")
    parser.add_argument("name", help="key under `datasets` in params.yaml")
    parser.add_argument("--profile", choices=config.PROFILES, help="instead of the profile in params.yaml")
    parser.add_argument("--out", help="folder for the arrays and the manifest (default data/prepared/PROFILE/NAME)")
    parser.add_argument("--params", default="params.yaml")
    parser.add_argument("--raw", default="data/raw", help="where files are looked for and downloads go")
    arguments = parser.parse_args()
    params = config.read(arguments.params)
    profile = arguments.profile or config.lookup(params, "profile")
    folder = arguments.out or f"data/prepared/{profile}/{arguments.name}"
    datasets.prepare(arguments.name, profile, config.dataset(params, profile, arguments.name), folder, arguments.raw)


if __name__ == "__main__":
    sys.exit(main_with_errors(main))
