"""An executed notebook as one HTML file: no script, no font and no style from a network, and no time in it."""

from html import escape
from pathlib import Path
from pprint import pformat

import nbformat
from nbconvert.exporters import HTMLExporter
from pygments.formatters import HtmlFormatter

from dbq.files import write_text

# 2 KB instead of the 270 KB of styles that nbconvert's own page repeats in every report
PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>{title}</title>
<style>
body {{ max-width: 72rem; margin: 2rem auto; padding: 0 1rem; font: 16px/1.5 system-ui, sans-serif; color: #222; background: #fff; }}
.anchor-link, .prompt {{ display: none; }}
.highlight pre, details pre {{ padding: .6rem .8rem; background: #f6f6f4; border-left: 3px solid #ccc; white-space: pre-wrap; }}
pre {{ overflow-x: auto; font: 13px/1.45 ui-monospace, monospace; }}
.output_stderr pre, .output_error pre {{ background: #fdecea; padding: .6rem .8rem; }}
table {{ border-collapse: collapse; font-size: 14px; margin: .5rem 0; display: block; overflow-x: auto; }}
th, td {{ border: 0; border-bottom: 1px solid #ddd; padding: .2rem .6rem; text-align: right; }}
img, svg {{ max-width: 100%; height: auto; }}
{highlight}
</style>
</head>
<body>
{body}
</body>
</html>
"""


def tidy(notebook) -> None:
    """Take what differs between two equal runs out of an executed notebook: time stamps, durations, random cell names."""
    notebook.metadata.pop("papermill", None)
    for place, cell in enumerate(notebook.cells):
        for key in ("papermill", "execution"):
            cell.metadata.pop(key, None)
        if "injected-parameters" in cell.metadata.get("tags", []):
            cell["id"] = "injected-parameters"
        elif "papermill-error" in "".join(cell.metadata.get("tags", [])):
            cell["id"] = f"papermill-error-{place}"


def write(notebook, path, parameters: dict, title: str) -> None:
    """Write the page of an executed notebook. `parameters` are shown folded, in place of papermill's one-line dump."""
    shown = nbformat.from_dict(notebook)
    for place, cell in enumerate(shown.cells):
        if "injected-parameters" in cell.metadata.get("tags", []):
            shown.cells[place] = nbformat.v4.new_markdown_cell(_folded(parameters), id="injected-parameters")
    exporter = HTMLExporter(template_name="basic")
    body, _ = exporter.from_notebook_node(shown)
    highlight = HtmlFormatter(style="default").get_style_defs(".highlight")
    write_text(Path(path), PAGE.format(title=escape(title), highlight=highlight, body=body.strip()))


def _folded(parameters: dict) -> str:
    lines = "\n".join(f"{name} = {pformat(value, width=140, compact=True, sort_dicts=False)}" for name, value in parameters.items())
    return f"<details><summary>Parameters of this run</summary><pre>{escape(lines)}</pre></details>"
