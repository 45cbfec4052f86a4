"""The one exception that a user is meant to read."""


class DbqError(Exception):
    """What is wrong (with the key or the file it is wrong in), and what to do about it.

    The message is one line, so that a terminal, a notebook and a log show the same thing.
    """

    def __init__(self, problem: str, remedy: str):
        self.problem = " ".join(problem.split())
        self.remedy = " ".join(remedy.split())
        super().__init__(f"{self.problem} -> {self.remedy}")


class NotRun(DbqError):
    """Nothing is wrong, but what a result needs isn't there any more (weights that weren't kept): a stage prints it as not run."""


def main_with_errors(main) -> int:
    """Run a command line's main() and turn a DbqError into one line on stderr and exit status 2."""
    import sys

    try:
        main()
    except DbqError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: finished epochs are kept, the same command goes on from there", file=sys.stderr)
        return 130
    return 0
