"""What the pages name exists, and the committed notebooks are sources."""

import json
from pathlib import Path

import pytest
import yaml

import check_lock
import check_readme
import parameters
import stage

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.fixture
def tree(tmp_path):
    """A repository of one stage per kind, with what a page may name."""
    for name in ("src/dbq/__main__.py", "src/dbq/report/__main__.py", "src/dbq/config.py", "notebooks/quantize.ipynb", "docs/page.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "params.yaml").write_text("experiments: {small-1t: {}}\n")
    (tmp_path / "Makefile").write_text("reproduce: done\n\ttrue\n")
    (tmp_path / ".gitignore").write_text("/runs/\n/data/prepared/\n")
    stages = {
        "quantize": {"foreach": "${experiments}", "do": {"outs": ["runs/${profile}/models/${key}.pt"]}},
        "tables": {"outs": [{"results/${profile}/tables": {"cache": False}}]},
    }
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    return tmp_path


GOOD = """
`src/dbq/config.py`, `config.py`, [the notebook](notebooks/quantize.ipynb#top), [elsewhere](https://example.org/none.md), `docs/`
`make reproduce`, `python -m dbq.report`, `results/PROFILE/tables/accuracy.csv`, `runs/smoke/failed/STAGE-KEY.ipynb`, `data/prepared`,
`top1/s`

```
dvc repro --single-item quantize@small-1t   # make it so in prose: make reproduce
dvc repro quantize@EXPERIMENT tables
python -m dbq train small-1t
```
"""
BAD = {
    "`src/dbq/none.py`": "no path src/dbq/none.py",
    "`none.py`": "no path none.py",
    "[text](docs/none.md)": "no path docs/none.md",
    "`results/smoke/none/`": "no path results/smoke/none/",
    "`make it`": "no target of make: it",
    "`python -m dbq.none`": "no module dbq.none",
    "`python -m dbq fly --high`": "no command fly",
    "`python pipeline/none.py --all`": "no file pipeline/none.py",
    "`dvc repro quantize@none`": "no stage quantize@none",
    "```\ndvc repro -s figures\n```": "no stage figures",
    "`tables@small-1t`": "no stage tables@small-1t",
}


def test_a_page_that_names_what_exists_has_no_faults(tree):
    page = tree / "README.md"
    page.write_text(GOOD.replace("make it so in prose: ", ""))
    assert check_readme.faults(page, check_readme.Tree(tree)) == []


@pytest.mark.parametrize(("text", "fault"), BAD.items())
def test_what_is_missing_is_named(tree, text, fault):
    page = tree / "README.md"
    page.write_text(text + "\n")
    assert check_readme.faults(page, check_readme.Tree(tree)) == [f"README.md: {fault}"]


def test_stages_of_a_dry_run():
    output = "Stage 'prepare@vww' didn't change, skipping\nRunning stage 'engine@a-1t':\n> python x\n\nRunning stage 'tables':\n"
    output += "Running stage 'settings':\n> python y\n"
    output += "ERROR: failed to reproduce 'report': [Errno 2] No such file or directory: '/x/runs/smoke/html'"
    assert check_lock.stages_to_run(output) == ["engine@a-1t", "tables", "report"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_committed_without_outputs(path):
    notebook = json.loads(path.read_text())
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    assert notebook["cells"][0]["cell_type"] == "markdown"
    assert not any("injected-parameters" in cell["metadata"].get("tags", []) for cell in code)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_declare_and_read_what_the_runner_passes(path):
    job = stage.Job(path.stem, "a" if path.stem in stage.WITH_KEY else None, "smoke", {})
    parameters.check(path, ["settings_file", *job.folders])
