"""What a stage leaves behind in a profile in which it has nothing to do: every output exists and says so."""

import json
from html import escape
from pathlib import Path

from dbq.files import write_json, write_text


def write(outputs: list[str], reason: str) -> None:
    """Write the marker of each output. `NAME/` becomes a folder that holds metrics.json; every other file gets what its ending asks for.

    The JSON is {"status": "not run", "reason": REASON}. No clock and no host in it: equal reasons give equal bytes.
    """
    marker = {"status": "not run", "reason": reason}
    for output in outputs:
        if output.endswith("/"):
            write_json(Path(output) / "metrics.json", marker)
        elif output.endswith(".json"):
            write_json(output, marker)
        elif output.endswith(".html"):
            write_text(output, f'<!DOCTYPE html>\n<meta charset="utf-8">\n<title>not run</title>\n<p>Not run: {escape(reason)}.</p>\n')
        elif output.endswith(".ipynb"):
            cell = {"cell_type": "markdown", "id": "not-run", "metadata": {}, "source": f"Not run: {reason}."}
            write_json(output, {"cells": [cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 5})
        else:
            write_text(output, json.dumps(marker) + "\n")
