"""Publishing a profile: what is copied, what is linked, what stops it."""

import html.parser

import pytest
import report_tree

from dbq.errors import DbqError
from dbq.report import index
from dbq.report.tables import LITERATURE, write_tables

NOT_RUN = "mobilenet_v1-vww-dbq-3t"
KEY = "resnet20-cifar10-dbq-2t"


@pytest.fixture
def tree():
    return report_tree.params()


@pytest.fixture
def folders(tmp_path, tree, request):
    runs, out = tmp_path / "runs", tmp_path / "results"
    metrics = report_tree.runs(runs, tree)
    write_tables(tree, metrics, out / "tables", request.config.rootpath / LITERATURE)
    (out / "figures").mkdir()
    (out / "figures" / "accuracy.svg").write_text("<svg/>")
    names = [f"{path.parent.name}-{path.name}" for path in metrics.glob("*/*") if path.is_dir() and path.name != NOT_RUN]
    for folder, ending in (("html", "html"), ("notebooks", "ipynb")):
        (runs / folder).mkdir()
        for name in [*names, *index.SINGLE]:
            (runs / folder / f"{name}.{ending}").write_text(name)
    return runs, out


class Links(html.parser.HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.found += [value for name, value in attributes if name in ("href", "src") and not value.startswith("data:")]


def test_every_link_of_the_page_leads_to_a_file(folders, tree):
    index.publish(tree, *folders)
    reports = folders[1] / "reports"
    links = Links((reports / "index.html").read_text()).found
    assert f"quantize-{KEY}.html" in links and all((reports / link).is_file() for link in links)
    assert (reports / f"engine-{KEY}.ipynb").read_text() == f"engine-{KEY}"


def test_the_page_says_smoke_and_what_was_not_run(folders, tree):
    index.publish(tree, *folders)
    page = (folders[1] / "reports" / "index.html").read_text()
    assert "SMOKE" in page and f"{NOT_RUN}: not run (its profiles are paper)" in page
    assert not list((folders[1] / "reports").glob(f"*{NOT_RUN}*"))
    tree["profile"] = "cifar10"
    index.publish(tree, *folders)
    assert "SMOKE:</" not in (page := (folders[1] / "reports" / "index.html").read_text()) and "class='smoke'" not in page


def test_result_files_are_copied_and_those_of_removed_keys_go(folders, tree):
    runs, out = folders
    index.publish(tree, runs, out)
    for name in ("metrics.json", "history.csv", "weights.json", "annealing.json"):
        assert (out / "metrics/quantize" / KEY / name).read_bytes() == (runs / "metrics/quantize" / KEY / name).read_bytes()
    del tree["experiments"][KEY]
    index.publish(tree, runs, out)
    assert not list(out.glob(f"*/**/*{KEY}*"))


def test_a_report_that_git_should_not_keep_is_named(folders, tree):
    path = folders[0] / "html" / f"quantize-{KEY}.html"
    path.write_bytes(b" " * (index.LIMIT + 1))
    with pytest.raises(DbqError, match=f"quantize-{KEY}.html: 5,000,001 bytes"):
        index.publish(tree, *folders)


def test_a_missing_report_names_the_stage(folders, tree):
    (folders[0] / "notebooks" / f"engine-{KEY}.ipynb").unlink()
    with pytest.raises(DbqError, match=f"dvc repro engine@{KEY}"):
        index.publish(tree, *folders)
