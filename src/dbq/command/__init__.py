"""The command line: `python -m dbq --help`. Each command calls one function of the library and imports it when it is called."""

import sys

import typer

from dbq.command import engine, training
from dbq.errors import DbqError

app = typer.Typer(
    name="dbq", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
    help="DBQ, sums of ternary branches for lightweight networks: train, count, replay, export.",
)  # fmt: skip
for group in (training, engine):
    for function in group.COMMANDS:
        app.command()(function)


def main() -> int:
    """Run the command line. An error that a user is meant to read is one line and exit status 2; an interruption is status 130."""
    try:
        app(standalone_mode=False)
    except DbqError as error:
        for line in str(error).splitlines():
            print(f"error: {line}", file=sys.stderr)
        return 2
    except typer.Exit as ended:
        return ended.exit_code
    except (KeyboardInterrupt, typer.Abort):
        print("interrupted: finished epochs are kept, the same command goes on from there", file=sys.stderr)
        return 130
    except Exception as error:
        if type(error).__module__.startswith(("click", "typer")):  # a wrong option or argument
            print(f"error: {error.format_message()} -> see `python -m dbq --help`", file=sys.stderr)
            return 2
        raise
    return 0
