"""Pages: what is copied and linked, what stops a publication, and that a page shows what it is given and runs none of it."""

import json

import pandas as pd
import pytest
import report_tree
from bs4 import BeautifulSoup
from nbformat import v4
from report_tree import DBQ, NOT_RUN, REASON

from dbq.errors import DbqError
from dbq.files import write_text
from dbq.report import index, pages
from dbq.report.results import Results
from dbq.report.tables import LITERATURE, write_tables

EVIL = """<script>alert("1")</script> "x' onload='2' <img src=//x onerror=3> [a](javascript:4) [b](javascript:alert(5))"""


class Page:
    """The tags, the addresses and the text of a page."""

    def __init__(self, text):
        found = BeautifulSoup(text, "html.parser").find_all()
        self.text, self.tags, self.attributes = (
            found[0].get_text(),
            {tag.name for tag in found},
            {name for tag in found for name in tag.attrs},
        )
        self.links = [tag[name] for tag in found for name in ("href", "src") if name in tag.attrs]

    def runs_nothing(self):
        followed = any(link.strip().lower().startswith("javascript") for link in self.links)
        return "script" not in self.tags and not followed and not any(name.startswith("on") for name in self.attributes)


@pytest.fixture
def published(tmp_path, request):
    """(plan, runs, results) with a report of every entry; to publish again: index.publish(*published)."""
    plan, runs, out = report_tree.plan(), tmp_path / "runs", tmp_path / "results"
    report_tree.runs(runs, plan)
    for path in [*runs.glob("quantize/*/metrics.json"), runs / "prepare" / "vww" / "manifest.json"]:
        change = {"source": EVIL} if path.name == "manifest.json" else {"label": EVIL, "data_source": EVIL}
        path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    (runs / "quantize" / DBQ / "model.pt").write_text("weights")
    for name in [f"{stage}-{key}" for stage in index.STAGES for key in Results(plan, runs).running(stage)] + list(index.SINGLE):
        for ending in ("html", "ipynb"):
            write_text(runs / "reports" / name / f"report.{ending}", name)
    write_tables(plan, runs, out / "tables", request.config.rootpath / LITERATURE)
    for name in ("accuracy", f"training_curves-{DBQ}", "training_curves-2t-temp-6"):
        write_text(out / "figures" / f"{name}.svg", "<svg/>")
    index.publish(plan, runs, out)
    return plan, runs, out


def index_of(out):
    return Page((out / "reports" / "index.html").read_text())


def test_the_index_links_files_and_shows_numbers_smoke_and_what_was_not_run(published):
    out = published[2]
    page = index_of(out)
    assert {f"quantize-{DBQ}.html", f"engine-{DBQ}.html", "tables.html", f"../figures/training_curves-{DBQ}.svg"} <= set(page.links)
    assert all((out / "reports" / link).is_file() for link in page.links)
    assert page.links.count("../figures/training_curves-2t-temp-6.svg") == 1  # of 2t-temp-6, not of 2t
    assert (out / "reports" / f"engine-{DBQ}.ipynb").read_text() == f"engine-{DBQ}"
    c_s = pd.read_csv(out / "tables" / "cost.csv", index_col="key").c_s[DBQ]
    assert all(text in page.text for text in (f"{int(c_s):,}", "90.00", "SMOKE: all images", f"not run: {REASON}"))
    assert not list((out / "reports").glob(f"*{NOT_RUN}*"))


def test_the_index_runs_nothing_of_what_it_shows(published):
    page = index_of(published[2])
    assert page.text.count(EVIL) == 9 and page.runs_nothing()  # labels in three tables, the source of a data set
    page = Page(pages.index_page(
        title=EVIL, smoke=False, singles=[("a", EVIL, EVIL)], comparisons=[EVIL], links={EVIL: [(EVIL, EVIL)]},
        tables={EVIL: pd.DataFrame({EVIL: [EVIL]})},
    ))  # fmt: skip
    assert page.runs_nothing() and "SMOKE" not in page.text


def test_result_files_are_copied_and_those_of_removed_keys_go(published):
    plan, runs, out = published
    folder = out / "metrics" / "quantize" / DBQ
    assert {path.name for path in folder.iterdir()} == {"metrics.json", "history.csv", "weights.json", "annealing.json"}
    assert all(path.read_bytes() == (runs / "quantize" / DBQ / path.name).read_bytes() for path in folder.iterdir())
    assert (out / "metrics" / "overhead" / "overhead.csv").is_file()
    rows = {key: row for key, row in report_tree.PARAMS["rows"].items() if key != DBQ}
    index.publish(report_tree.plan(rows=rows), runs, out)
    assert not list(out.glob(f"metrics/*/{DBQ}")) and not list(out.glob(f"reports/*{DBQ}*"))
    index.publish(report_tree.plan("none"), runs, out)
    assert (out / "metrics" / "engine" / "mobilenet_v1-vww-dbq-1t" / "cost.json").is_file()  # declared, and run elsewhere
    (runs / "overhead" / "metrics.json").write_text('{"status": "not run", "reason": "no time"}')
    index.publish(plan, runs, out)
    assert "What training costs: not run (no time)" in index_of(out).text


def test_large_and_missing_files_are_named(published):
    path = published[1] / "reports" / f"quantize-{DBQ}" / "report.html"
    path.write_bytes(b" " * (index.LIMIT + 1))
    with pytest.raises(DbqError, match=r"report\.html: 5,000,001 bytes"):
        index.publish(*published)
    path.unlink()
    with pytest.raises(DbqError, match=f"dvc repro quantize@{DBQ}"):
        index.publish(*published)


def test_the_page_of_a_notebook_shows_its_outputs_and_runs_nothing(tmp_path):
    frame = pd.DataFrame({"source": [EVIL], "top1": [91.5]})
    data = [
        {"text/html": frame._repr_html_(), "text/plain": "table"},
        {"text/markdown": f"**Top1 91.5 %** {EVIL}", "text/plain": "text"},
        {"text/html": EVIL},
        {"image/png": "iVBORw0KGgo=", "text/plain": "figure"},
        {"application/javascript": "alert(1)", "text/plain": "hidden"},
    ]
    outputs = [v4.new_output("display_data", data=entry) for entry in data] + [v4.new_output("stream", text=EVIL)]
    cells = [
        v4.new_markdown_cell("# Title\n\n| a | b |\n|---|---|\n| 1 | 2 |"),
        v4.new_code_cell("key = 1", metadata={"tags": ["injected-parameters"]}),
        v4.new_code_cell("print('shown')", outputs=outputs),
    ]
    pages.write_notebook_page(v4.new_notebook(cells=cells), tmp_path / "report.html", EVIL, {"key": EVIL})
    text = (tmp_path / "report.html").read_text()
    page = Page(text)
    assert page.runs_nothing() and "alert(1)" not in text
    assert {"h1", "table", "details", "img", "strong", "th"} <= page.tags and "style scoped" not in text
    assert all(word in page.text for word in ("91.5", "Title", "shown", '<script>alert("1")</script>', "Parameters of this run"))
    assert "key = 1" not in page.text and "data:image/png;base64,iVBORw0KGgo=" in text
    assert not any(link.startswith(("http", "//")) for link in page.links)
