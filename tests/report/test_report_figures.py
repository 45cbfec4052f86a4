"""Figures: what they show, that they are repeatable, and that nothing covers anything else."""

import io
import warnings
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
import report_tree
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dbq.errors import DbqError
from dbq.files import write_json
from dbq.report import ablation_report, cost_figures, figures, labels, overhead_figures, results, tables
from dbq.report.drawing import SMOKE_NOTE, Drawing, short_key, styled

LITERATURE = Path(__file__).parents[2] / tables.LITERATURE
KEY = "resnet20-cifar10-dbq-2t"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root, tree = tmp_path_factory.mktemp("report"), report_tree.params()
    metrics = report_tree.runs(root, tree)
    tables.write_tables(tree, metrics, root / "tables", LITERATURE)
    figures.write_figures(tree, metrics, root / "tables", root / "figures")
    return root


def words(figure):
    return "\n".join(text.get_text() for text in figure.findobj(matplotlib.text.Text))


def test_every_figure_is_there_in_both_forms_and_none_without_runs(folder):
    written = {path.name for path in (folder / "figures").iterdir()}
    run = [key for key in report_tree.params()["experiments"] if key != "mobilenet_v1-vww-dbq-3t"]
    names = ["ablations", "overhead", "overhead-gpu", "accuracy", "pareto_c_c", "pareto_c_s", "pareto_c_r", "pareto_c_m"]
    names += [f"training_curves-{key}" for key in [*report_tree.params()["pretrain"], *run]] + [f"cost_per_layer-{key}" for key in run]
    names += [f"{kind}-{key}" for kind in ("transfer_curve", "weight_histogram") for key in run if "dbq" in key]
    assert written == {f"{name}.{ending}" for name in names for ending in ("svg", "png")}


def test_smoke_figures_say_so_in_every_file(folder):
    for path in (folder / "figures").glob("*.svg"):
        text = path.read_text()
        if path.stem == "overhead-gpu":  # recorded, the same in every profile
            continue
        assert ">SMOKE<" in text and SMOKE_NOTE in text, path.name
    assert "cifar10 (stand-in: digits)" in (folder / "figures/accuracy.svg").read_text()


def test_other_profiles_have_no_watermark(folder):
    figure = figures.cost_bars(results.layers(folder / "metrics", KEY), "Cost")
    assert "SMOKE" not in words(figure) and SMOKE_NOTE not in words(figure)


def test_equal_results_give_equal_bytes(folder):
    again = [
        ("cost_per_layer", figures.cost_bars(results.layers(folder / "metrics", KEY), f"Cost per layer of {KEY}", True)),
        ("transfer_curve", figures.transfer_curve(results.annealing(folder / "metrics", KEY), f"Quantizer of {KEY}", True)),
    ]
    with matplotlib.rc_context({"font.size": 20, "svg.fonttype": "path", "axes.grid": False}):
        for name, figure in again:
            for kind in ("png", "svg"):  # the other order: one form must not change the other
                assert figure.bytes(kind) == (folder / f"figures/{name}-{KEY}.{kind}").read_bytes()
    assert "<dc:date>" not in (folder / "figures/accuracy.svg").read_text()


def test_a_png_shows_what_matplotlib_draws_in_few_bytes_and_photographs_keep_their_colours(folder):
    chart = figures.cost_bars(results.layers(folder / "metrics", KEY), "Cost")
    photograph = Drawing(2, 2)
    axes = photograph.add_subplot()
    axes.set_axis_off()
    axes.imshow(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8), interpolation="nearest")
    for figure, mode, tolerance in ((chart, "P", 32), (photograph, "RGB", 0)):
        content = figure.bytes("png")  # settles the layout
        shown, drawn = (
            np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int) for png in (content, as_matplotlib_saves(figure))
        )
        assert Image.open(io.BytesIO(content)).mode == mode
        assert shown.shape == drawn.shape
        assert np.abs(shown - drawn).max() <= tolerance
    assert len(chart.bytes("png")) < 0.6 * len(as_matplotlib_saves(chart))


@styled
def as_matplotlib_saves(figure) -> bytes:
    buffer = io.BytesIO()
    figure.canvas.print_png(buffer)
    return buffer.getvalue()


def test_drawing_leaves_a_notebooks_settings_alone(folder):
    with matplotlib.rc_context({"font.size": 17}):
        before = dict(matplotlib.rcParams)
        figures.weight_histogram(results.weights(folder / "metrics", KEY))._repr_png_()
        assert dict(matplotlib.rcParams) == before


def test_a_missing_table_is_an_error(folder, tmp_path):
    with pytest.raises(DbqError, match=r"accuracy\.csv: no such file -> run `dvc repro tables`"):
        figures.write_figures(report_tree.params(), folder / "metrics", tmp_path, tmp_path / "figures")


def test_training_curves_draw_every_seed_and_no_gap_without_branches(folder):
    history = results.history(folder / "metrics", "quantize", KEY)
    loss, top1, gap = figures.training_curves(history).axes
    assert (len(loss.lines), len(top1.lines), len(gap.lines)) == (3, 6, 3)
    np.testing.assert_array_equal(loss.lines[1].get_ydata(), history[history.seed == 1].train_loss)
    assert len(figures.training_curves(results.history(folder / "metrics", "pretrain", "resnet20-cifar10")).axes) == 2


def test_a_notebooks_rows_without_a_gap_are_drawn_too():
    rows = [dict.fromkeys(report_tree.HISTORY, 1.0) | {"seed": 0, "epoch": epoch, "soft_hard_gap": None} for epoch in (1, 2)]
    assert len(figures.training_curves(pd.DataFrame(rows)).axes) == 2


@pytest.mark.parametrize(
    ("figure", "text"),
    [
        (lambda: figures.training_curves(pd.DataFrame(columns=report_tree.HISTORY)), "weights are external"),
        (lambda: figures.transfer_curve({}), "no transfer curve"),
        (lambda: figures.weight_histogram({"layers": []}), "Only layers of ternary branches"),
        (lambda: figures.cost_bars(pd.DataFrame(columns=report_tree.LAYERS)), "No layers"),
    ],
)
def test_a_figure_without_data_says_so(figure, text):
    assert text in words(figure())


def test_a_profile_without_runs_says_so():
    tree = report_tree.params()
    rows = pd.DataFrame([{"key": "k", "network": "n", "dataset": "cifar10", "n": 0, "c_c": np.nan, "top1_mean": np.nan}])
    assert "Nothing was run" in words(figures.accuracy_plot(rows, results.dataset_titles(tree)))
    assert "No experiment" in words(figures.pareto(rows, "c_c", results.dataset_titles(tree)))


def test_equal_temperatures_are_one_curve(folder):
    annealing = results.annealing(folder / "metrics", KEY)
    constant = {**annealing, "curves": [{**curve, "temperature": 12.0} for curve in annealing["curves"]]}
    (axes,) = figures.transfer_curve(constant).axes
    assert [line.get_label() for line in axes.lines] == ["hard", "T = 12 (epochs 0 to 4)"]
    np.testing.assert_array_equal(axes.lines[0].get_ydata(), annealing["hard"])


def test_the_histogram_marks_levels_and_thresholds(folder):
    weights = results.weights(folder / "metrics", KEY)
    axes = figures.weight_histogram(weights, shown=3).axes
    assert [panel.get_title(loc="left").split(",")[0] for panel in axes] == [f"layer1.{index}.conv1" for index in (0, 2, 4)]
    layer = weights["layers"][2]
    assert [line.get_xdata()[0] for line in axes[1].lines] == layer["levels"] + layer["thresholds"]
    zero = layer["level_counts"][4] / sum(layer["level_counts"])
    assert f"{100 * zero:.0f} % zero" in axes[1].get_title(loc="left")


def test_bars_are_the_costs_and_an_undefined_cost_is_said(folder):
    layers = results.layers(folder / "metrics", KEY)
    upper, _ = figures.cost_bars(layers).axes
    assert [bar.get_height() for bar in upper.containers[0]] == list(layers.c_c)
    layers["c_c"] = layers.c_c.astype(object)
    layers.loc[0, "c_c"] = None
    assert "1 of 5 layers" in words(figures.cost_bars(layers))


def comparison(count, seed=0, n=(1,)):
    rng, networks = np.random.default_rng(seed), ("resnet20", "mobilenet_v1", "mobilenet_v2", "shufflenet_v2")
    rows = []
    for index in range(count):
        network, branches = networks[index % 4], 1 + index % 3
        rows.append({
            "key": f"{network}-cifar10-dbq-{branches}t-{index}", "network": network, "dataset": "cifar10", "method": "dbq",
            "branches": branches, "n": n[index % len(n)], "top1_mean": rng.normal(90, 1.2),
            "top1_std": 0.2 if n[index % len(n)] > 1 else np.nan, "c_c": 10 ** rng.normal(8.2, 0.25),
        })  # fmt: skip
    return pd.DataFrame(rows)


def test_the_pareto_plot_shows_every_point_its_name_and_n():
    rows = comparison(6, n=(1, 3))
    figure = figures.pareto(rows, "c_c", {"cifar10": "cifar10"})
    assert figure.axes[0].get_xscale() == "log" and "n = 1 to 3 seeds" in words(figure)
    for row in rows.itertuples():
        assert f"{row.network} dbq-{row.branches}t-{row.Index} (n={row.n})" in words(figure)
    rows.loc[0, "c_c"] = np.nan
    assert f"no c_c under this reading: {rows.key[0]}" in words(figures.pareto(rows, "c_c", {"cifar10": "cifar10"}))


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=12))
def test_the_front_is_what_a_sweep_by_cost_finds(points):
    cost, top1 = map(list, zip(*points, strict=True))
    best, wanted = 0, set()
    for price in sorted(set(cost)):
        highest = max(value for other, value in points if other == price)
        if highest > best:
            best = highest
            wanted.add((price, highest))
    assert [bool(flag) for flag in figures.pareto_front(cost, top1)] == [point in wanted for point in points]


@pytest.mark.parametrize("seed", range(4))
def test_twenty_labels_cover_no_label_and_no_point(seed):
    rng = np.random.default_rng(seed)
    points = list(zip(rng.normal(0, 1, 20), rng.normal(0, 1, 20), strict=True))

    @styled
    def draw():
        figure = Drawing(8.5, 5.2)
        axes = figure.add_subplot(xlim=(-3, 3), ylim=(-3, 3))
        figure.settle()
        return axes, labels.place(axes, points, [f"mobilenet_v1 dbq-2t-{index}" for index in range(20)])

    axes, boxes = draw()
    frame = axes.get_window_extent()
    for index, box in enumerate(boxes):
        assert frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1
        assert not any(labels._shared(box, other) for other in boxes[index + 1 :])
        assert not any(box.contains(*axes.transData.transform(point)) for point in points)


def test_nothing_warns(folder):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figures.pareto(comparison(1), "c_c", {"cifar10": "cifar10"}).bytes("svg")
        figures.accuracy_plot(comparison(1), {"cifar10": "cifar10"}).bytes("svg")


def test_the_scale_of_accuracy_ends_at_100():
    rows = comparison(3).assign(top1_mean=[55.0, 99.0, 100.0])
    (axes,) = figures.accuracy_plot(rows, {"cifar10": "cifar10"}).axes
    assert max(axes.get_xticks()) == 100 and axes.get_xlim()[1] > 100


def test_an_experiment_and_a_sweeps_row_of_the_same_name_are_told_apart():
    rows = comparison(3).assign(network="a", dataset="b", key=["a-b-dbq-2t", "sweep-a-b-dbq-2t", "sweep-a-b-ttq"])
    (axes,) = figures.accuracy_plot(rows, {"b": "b"}).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["dbq-2t", "dbq-2t (sweep)", "ttq"]


def test_shares_of_the_kinds_of_layer_add_up_and_an_undefined_cost_has_none(folder):
    layers = results.layers(folder / "metrics", KEY)
    shares = cost_figures.kind_shares(layers)
    assert list(shares.index) == ["first", "depthwise", "other"]
    np.testing.assert_allclose(shares.sum(), 100)
    assert shares.c_s["first"] == pytest.approx(100 * layers[layers.kind == "first"].c_s.sum() / layers.c_s.sum())
    assert "no layers" in words(cost_figures.cost_by_kind(layers[:0])).lower()
    layers.loc[0, "c_c"] = np.nan
    assert cost_figures.kind_shares(layers).c_c.isna().all()
    axes = cost_figures.cost_by_kind(layers).axes[0]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["first", "depthwise", "other"]


def test_readings_are_drawn_over_the_main_one():
    rows = [
        {"reading": r, "count_bias": b, "main": b, "c_c": c, "c_s": c / 2} for r, b, c in (("adder_only", True, 10), ("two_bit", False, 25))
    ]
    axes = cost_figures.readings_plot(pd.DataFrame(rows)).axes[0]
    assert [round(bar.get_width(), 2) for bar in axes.patches] == [1.0, 2.5, 1.0, 2.5]


@pytest.mark.parametrize(
    ("subject", "branches", "name"), [("dbq-2t", 2, "DBQ 2T"), ("dbq-2t-by-input", 2, "DBQ 2T"), ("brevitas-lsq-2", 1, "LSQ")]
)
def test_a_subject_of_the_overhead_has_its_methods_name(subject, branches, name):
    assert overhead_figures._legend_name(subject, branches) == name


@pytest.mark.parametrize(
    ("key", "name"), [("a-b", "float"), ("a-b-dbq-2t", "dbq-2t"), ("sweep-a-b", "sweep"), ("sweep-a-b-dbq-2t", "dbq-2t")]
)
def test_short_names_of_rows(key, name):
    assert short_key(key, "a", "b") == name


def test_an_ablation_far_below_its_reference_does_not_press_the_others_together(tmp_path):
    rows = [("base", [95.0], 0.0), ("better", [95.2, 95.6], 0.4), ("lost", [51.38], -43.62)]
    measured = {"base": "a-b", "branches": 1, "epochs": 2, "zero_rate": [0.5], "soft_hard_gap": [0.1], "device": "cpu", "label": "MEASURED"}
    tree = [
        {**measured, "key": name, "change": name, "n": len(top1), "val_top1": top1, "delta_to_base": delta} for name, top1, delta in rows
    ]
    write_json(tmp_path / "ablations" / "metrics.json", {"rows": tree})
    figure = ablation_report.ablation_plot(ablation_report.table(tmp_path))
    low, high = figure.axes[0].get_xlim()
    assert 94 < low < 95 < 95.4 < high < 97
    assert "51.38, off the axis" in words(figure) and "95.40" in words(figure)
    assert "mean and standard deviation" in words(figure)
