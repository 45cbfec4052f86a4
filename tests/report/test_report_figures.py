"""Figures: what they show, that they are repeatable, and that nothing covers anything else."""

import warnings
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
import report_tree
from hypothesis import given, settings
from hypothesis import strategies as st
from report_tree import DBQ

from dbq.errors import DbqError
from dbq.report import comparison_figures, figures, overhead_figures, tables
from dbq.report.drawing import SMOKE_NOTE
from dbq.report.results import COMPARISONS, Results

LITERATURE = Path(__file__).parents[2] / tables.LITERATURE


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """A row with branches, one without and one that isn't run, with their tables and figures beside them."""
    rows = {key: report_tree.PARAMS["rows"][key] for key in ("resnet20-cifar10-uniform-8", report_tree.NOT_RUN, DBQ)}
    root, plan = tmp_path_factory.mktemp("report"), report_tree.plan(rows=rows)
    report_tree.runs(root / "runs", plan)
    with pytest.raises(DbqError, match=r"accuracy\.csv: no such file -> run `dvc repro tables`"):
        figures.write_figures(plan, root / "runs", root / "tables", root / "figures")
    tables.write_tables(plan, root / "runs", root / "tables", LITERATURE)
    figures.write_figures(plan, root / "runs", root / "tables", root / "figures")
    return Results(plan, root / "runs")


def words(figure):
    return "\n".join(text.get_text() for text in figure.findobj(matplotlib.text.Text))


def test_every_figure_is_there_in_both_forms_and_says_smoke(results):
    drawn = results.folder.parent / "figures"
    names = {f"training_curves-{key}" for key in ("resnet20-cifar10", "resnet20-cifar10-uniform-8", DBQ)}
    names |= {f"{kind}-{DBQ}" for kind in ("transfer_curve", "weight_histogram")}
    names |= {f"cost_per_layer-{key}" for key in ("resnet20-cifar10-uniform-8", DBQ)} | set(COMPARISONS)
    assert {path.name for path in drawn.iterdir()} == {f"{name}.{ending}" for name in names for ending in ("svg", "png")}
    for name in names - {"overhead-gpu"}:  # that one is the same in every profile
        text = (drawn / f"{name}.svg").read_text()
        assert ">SMOKE<" in text and SMOKE_NOTE in text and "<dc:date>" not in text, name
    assert "cifar10 (stand-in: digits)" in (drawn / "accuracy.svg").read_text()


def test_equal_results_give_equal_bytes_and_no_watermark_unless_asked(results):
    again = figures.cost_bars(results.layers(DBQ), f"Cost per layer of {DBQ}", True)
    with matplotlib.rc_context({"font.size": 20, "svg.fonttype": "path", "axes.grid": False}):
        for kind in ("png", "svg"):  # the other order: one form must not change the other
            assert again.bytes(kind) == (results.folder.parent / "figures" / f"cost_per_layer-{DBQ}.{kind}").read_bytes()
        assert matplotlib.rcParams["font.size"] == 20  # a notebook's own settings stay
    assert "SMOKE" not in words(figures.cost_bars(results.layers(DBQ), "Cost"))


def test_training_curves_draw_every_seed_and_no_gap_without_branches(results):
    history = results.history(DBQ)
    loss, top1, gap = figures.training_curves(history).axes
    assert (len(loss.lines), len(top1.lines), len(gap.lines)) == (3, 6, 3)
    np.testing.assert_array_equal(loss.lines[1].get_ydata(), history[history.seed == 1].train_loss)
    assert len(figures.training_curves(results.history("resnet20-cifar10").assign(soft_hard_gap=None)).axes) == 2


def test_a_figure_without_data_says_so():
    assert "weights are external" in words(figures.training_curves(pd.DataFrame(columns=["seed", "soft_hard_gap"])))
    assert "Nothing was run" in words(figures.accuracy_plot(comparison(1).assign(n=0), {}))
    assert "No row" in words(figures.pareto(comparison(1).assign(n=0), "c_c", {}))
    assert "No ablation" in words(figures.ablation_plot(pd.DataFrame({"n": [0]})))


def test_the_histogram_marks_levels_and_thresholds_and_bars_are_costs(results):
    weights = results.kept(DBQ, "weights.json")
    axes = figures.weight_histogram(weights, shown=3).axes
    assert [panel.get_title(loc="left").split(",")[0] for panel in axes] == [f"layer1.{index}.conv1" for index in (0, 2, 4)]
    layer = weights["layers"][2]
    assert [line.get_xdata()[0] for line in axes[1].lines] == layer["levels"] + layer["thresholds"]
    assert f"{100 * layer['level_counts'][4] / sum(layer['level_counts']):.0f} % zero" in axes[1].get_title(loc="left")
    layers = results.layers(DBQ)
    assert [bar.get_height() for bar in figures.cost_bars(layers).axes[0].containers[0]] == list(layers.c_c)
    layers["c_c"] = [None, *layers.c_c[1:]]
    assert "1 of 5 layers" in words(figures.cost_bars(layers))


def comparison(count, networks=("resnet20",), n=(1,)):
    """Lines of the accuracy table with a cost; the float network has 92 %."""
    rng, rows = np.random.default_rng(0), []
    for index in range(count):
        network, seeds, top1 = networks[index % len(networks)], n[index % len(n)], rng.normal(90, 1.2)
        rows.append({
            "key": f"{network}-cifar10-dbq-{index}", "network": network, "dataset": "cifar10", "method": "dbq", "branches": 1 + index % 3,
            "n": seeds, "top1_mean": top1, "top1_std": 0.2 if seeds > 1 else np.nan, "delta_to_float": top1 - 92,
            "c_c": 10 ** rng.normal(8.2, 0.25),
        })  # fmt: skip
    return pd.DataFrame(rows)


def test_the_pareto_plot_has_every_point_its_name_n_and_the_float_line_and_nothing_covers_anything():
    rows = comparison(24, ("resnet20", "mobilenet_v1", "mobilenet_v2"), n=(1, 3))
    rows.loc[rows.network == "mobilenet_v2", "c_c"] = np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = figures.pareto(rows, "c_c", {"cifar10": "CIFAR"})
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["resnet20 on CIFAR", "mobilenet_v1 on CIFAR"]
    assert "n = 1 to 3 seeds" in words(figure) and "without C_C: 8 rows" in words(figure)
    for axes, network in zip(figure.axes, ("resnet20", "mobilenet_v1"), strict=True):
        own = rows[(rows.network == network)]
        points = {tuple(xy) for container in axes.containers for xy in container.lines[0].get_xydata()}
        assert points == set(zip(own.c_c, own.top1_mean, strict=True)) and axes.get_xscale() == "log"
        assert [f"dbq-{row.Index} (n={row.n})" for row in own.itertuples()] == [text.get_text() for text in axes.texts]
        assert [92.0, 92.0] in [list(line.get_ydata()) for line in axes.lines]
        frame, boxes = axes.get_window_extent(), [text.get_window_extent() for text in axes.texts]
        for index, box in enumerate(boxes):
            assert frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1
            assert not any(box.overlaps(other) for other in boxes[index + 1 :])
            assert not any(box.contains(*axes.transData.transform(point)) for point in points)


def test_what_signed_digits_make_cheaper_is_drawn_and_beats_like_for_like():
    rows = comparison(2).assign(top1_mean=[90.0, 91.0], c_s=[100.0, 150.0], c_s_signed_digits=[100.0, 60.0])
    figure = figures.pareto(rows, "c_s", {"cifar10": "cifar10"})
    (axes,) = figure.axes
    (hollow,) = [line for line in axes.lines if line.get_markerfacecolor() == "white"]
    assert (hollow.get_xdata()[0], hollow.get_ydata()[0]) == (60, 91) and "hollow" in words(figure)
    (stairs,) = [line for line in axes.lines if line.get_drawstyle() == "steps-post"]
    assert list(stairs.get_xdata()[:2]) == [60, 60] and stairs.get_ydata()[-1] == 91 and len(stairs.get_xdata()) == 3


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=12))
def test_the_front_is_what_no_other_point_beats(points):
    def beaten(point):
        return any(one <= point[0] and two >= point[1] and (one, two) != point for one, two in points)

    cost, top1 = zip(*points, strict=True)
    assert list(comparison_figures.pareto_front(cost, top1)) == [not beaten(point) for point in points]


def test_the_scale_of_accuracy_ends_at_100_and_names_are_unique():
    rows = comparison(3).assign(top1_mean=[55.0, 99.0, 100.0], network="a", dataset="b", key=["a-b", "a-b-ttq", "ttq"])
    (axes,) = figures.accuracy_plot(rows, {"b": "b"}).axes
    assert max(axes.get_xticks()) == 100 and axes.get_xlim()[1] > 100
    assert [label.get_text() for label in axes.get_yticklabels()] == ["float", "a-b-ttq", "ttq"]


def test_an_ablation_far_below_its_reference_does_not_press_the_others_together():
    rows = [("base", 95.0, np.nan, 0.0), ("better", 95.4, 0.28, 0.4), ("lost", 51.38, np.nan, -43.62)]
    table = pd.DataFrame(rows, columns=["change", "val_top1_mean", "val_top1_std", "delta_to_base"])
    figure = figures.ablation_plot(table.assign(n=1, base="a-b", method="dbq", branches=1))
    low, high = figure.axes[0].get_xlim()
    assert 94 < low < 95 < 95.4 < high < 97
    assert "51.38, off the axis" in words(figure) and "95.40" in words(figure) and "mean and standard deviation" in words(figure)


def test_the_overhead_has_every_measured_ratio_between_its_quartiles(results):
    axes = overhead_figures.overhead_bars(overhead_figures.read(results.folder / "overhead")).axes[0]
    bars = {container.lines[0].get_xdata()[0]: container.lines[2][0].get_segments()[0][:, 0] for container in axes.containers}
    assert list(bars) == [1.0, 1.07] and list(bars[1.07]) == pytest.approx([1.05, 1.1])
    assert {"1.07  memory 1.02", "not run"} <= {text.get_text() for text in axes.texts}
    subjects = {"dbq-2t": "dbq", "dbq-2t-by-input": "dbq", "brevitas-lsq-2": "lsq", "twn": "twn"}
    assert {subject: overhead_figures.method_of(subject) for subject in subjects} == subjects
