"""python -m dbq.report: publish the profile of params.yaml under results/PROFILE. The pipeline's report stage runs it."""

import argparse
from pathlib import Path

from dbq.errors import main_with_errors
from dbq.report.index import publish
from dbq.settings import resolve as config


def main():
    parser = argparse.ArgumentParser(prog="python -m dbq.report", description=__doc__)
    parser.add_argument("--params", default="params.yaml")
    params = config.read(parser.parse_args().params)
    profile = config.check_profile(config.lookup(params, "profile"))
    publish(params, Path("runs") / profile, Path("results") / profile)
    print(f"results/{profile}/reports/index.html")


if __name__ == "__main__":
    raise SystemExit(main_with_errors(main))
