"""Pages: the report of an executed notebook, and the index of a profile. Whatever a page shows is escaped.

A page needs no network: no script, no font and no style comes from one. The templates stand here and not in files of their own, so that the
digest of this code covers them.
"""

import re
from pathlib import Path
from pprint import pformat

import bleach
import jinja2
from nbconvert.exporters import HTMLExporter
from pygments.formatters import HtmlFormatter
from traitlets.config import Config

from dbq.files import write_text

BASE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{{ title }}</title><style>
body { max-width: 75rem; margin: 2rem auto; padding: 0 1rem; font: 16px/1.5 system-ui, sans-serif; color: #222; background: #fff; }
pre { overflow-x: auto; font: 13px/1.45 ui-monospace, monospace; }
table { border-collapse: collapse; font-size: 14px; margin: .5rem 0; display: block; overflow-x: auto; }
th, td { border: 0; border-bottom: 1px solid #ddd; padding: .2rem .6rem; text-align: right; }
img { max-width: 100%; height: auto; }
{% block style %}{% endblock %}
</style></head>
<body>{% block body %}{% endblock %}</body></html>
"""

# 2 KB of style instead of the 270 KB that nbconvert's own page repeats in every report
NOTEBOOK = """{% extends "base" %}
{% block style %}.anchor-link, .prompt { display: none; }
.highlight pre, details pre { padding: .6rem .8rem; background: #f6f6f4; border-left: 3px solid #ccc; white-space: pre-wrap; }
.output_stderr pre, .output_error pre { background: #fdecea; padding: .6rem .8rem; }
{{ highlight|safe }}{% endblock %}
{% block body %}<details><summary>Parameters of this run</summary><pre>{% for name, value in parameters.items() -%}
{{ name }} = {{ value }}
{% endfor %}</pre></details>
{{ body|safe }}{% endblock %}
"""

INDEX = """{% extends "base" %}
{% block style %}td, th { white-space: nowrap; }
.smoke { background: #fde9c8; padding: .6rem 1rem; font-weight: bold; }{% endblock %}
{% block body %}<h1>{{ title }}</h1>
{% if smoke %}<p class="smoke">SMOKE: all images are stand-ins. The numbers show that everything runs; they are not evidence.</p>{% endif %}
<ul>{% for name, label, reason in singles %}
<li>{% if reason %}{{ label }}: not run ({{ reason }}){% else %}<a href="{{ name|urlencode }}.html">{{ label }}</a>{% endif %}</li>
{% endfor %}</ul>
{% for name, table in tables.items() %}<h2>{{ name }}</h2>
{{ table.to_html(index=False, escape=True)|safe }}
{% endfor %}<h2>reports and figures</h2>
<ul>{% for key, own in links.items() %}
<li>{{ key }}:{% for text, address in own %} <a href="{{ address|urlencode }}">{{ text }}</a>{% endfor %}</li>
{% endfor %}</ul>
{% for name in comparisons %}<h2>{{ name }}</h2>
<img src="../figures/{{ name|urlencode }}.svg" alt="{{ name }}">
{% endfor %}{% endblock %}
"""

_PAGES = jinja2.Environment(
    autoescape=True, undefined=jinja2.StrictUndefined, loader=jinja2.DictLoader({"base": BASE, "notebook": NOTEBOOK, "index": INDEX})
)
# what notebooks and the tables of pandas need; no script, no style, no link but to a page
_TAGS = bleach.ALLOWED_TAGS | {
    "br", "details", "div", "h1", "h2", "h3", "hr", "img", "p", "pre", "span", "summary", "table", "tbody", "td", "th", "thead", "tr",
}  # fmt: skip
_ATTRIBUTES = {
    "*": ["class", "id", "colspan", "rowspan"],
    "a": lambda tag, name, value: name == "href" and re.fullmatch(r"(https?://|mailto:|#)\S*|[\w./-]*", value) is not None,
    "img": lambda tag, name, value: name == "alt" or (name == "src" and value.startswith("data:image/")),
}
# the forms of an output, the first that it has is shown
_SHOWN = ["text/html", "text/markdown", "image/svg+xml", "text/latex", "image/png", "image/jpeg", "text/plain"]


def index_page(**values) -> str:
    return _PAGES.get_template("index").render(**values)


def write_notebook_page(notebook, path, title: str, parameters: dict) -> None:
    """Write an executed notebook as one HTML file. `parameters` stand folded above it, in place of papermill's cell.

    What a cell's text or output has of HTML besides tables, headings and the like is shown as text and not followed.
    """
    without = {"enabled": True, "remove_cell_tags": ["injected-parameters"]}
    config = Config({"TagRemovePreprocessor": without, "NbConvertBase": {"display_data_priority": _SHOWN}})
    exporter = HTMLExporter(
        config=config, template_name="basic", sanitize_html=True, exclude_anchor_links=True, filters={"clean_html": _clean}
    )
    body, _ = exporter.from_notebook_node(notebook)
    lines = {name: pformat(value, width=140, sort_dicts=False) for name, value in parameters.items()}
    highlight = HtmlFormatter(style="default").get_style_defs(".highlight")
    page = _PAGES.get_template("notebook").render(title=title, parameters=lines, highlight=highlight, body=body.strip())
    write_text(Path(path), page + "\n")


def _clean(html) -> str:
    """HTML without what could run or style: other tags are shown as text. A table of pandas loses its own style."""
    html = re.sub(r"<style scoped>.*?</style>", "", html.decode() if isinstance(html, bytes) else str(html), flags=re.DOTALL)
    return bleach.clean(html, tags=_TAGS, attributes=_ATTRIBUTES, protocols={"http", "https", "mailto", "data"})
