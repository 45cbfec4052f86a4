"""python -m dbq: see `python -m dbq --help`."""

from dbq.command import main

if __name__ == "__main__":
    raise SystemExit(main())
