"""The generated engines in the simulator and the synthesiser. Skipped where those optional tools are not installed."""

import shutil

import numpy as np
import pytest

from dbq.cost.formulas import ternary_adders
from dbq.errors import DbqError
from dbq.hardware import Design, compare, counts, evaluate, generate, measure, simulate, simulation, synthesise, tools, tree_adders
from dbq.hardware.measure import Case, grid, measure_all, measurements, random_planes, vectors

simulator = pytest.mark.skipif(shutil.which("iverilog") is None or shutil.which("vvp") is None, reason="Icarus Verilog is not installed")
synthesiser = pytest.mark.skipif(shutil.which("yosys") is None, reason="Yosys is not installed")


@simulator
@pytest.mark.parametrize(("kind", "structure"), [("port", "chain"), ("port", "tree"), ("constant", "chain"), ("constant", "tree")])
def test_ten_thousand_dot_products_equal_integers(kind, structure):
    case = Case(kind, structure, 12, 4, 2, 0.4)
    assert not compare(case.design(), *vectors(case, 10_000))[1].any()


@simulator
@pytest.mark.parametrize("structure", ["chain", "tree"])
@pytest.mark.parametrize("length", [1, 2, 7, 8])
def test_signed_activations_at_the_corners_of_the_range(length, structure):
    random = np.random.default_rng(length)
    activations = random.choice([-8, 7, 3], (64, length))
    planes = random.integers(-1, 2, (64, 2, length))
    activations[0], planes[0] = -8, -1
    scales = random.choice([0, 1, 255], (64, 2))
    scales[0] = 255
    simulated = simulate(Design(length, 4, 2, signed=True, structure=structure), activations, planes, scales)
    assert (simulated.values == (np.einsum("nbl,nl->nb", planes, activations) * scales).sum(1)).all()


@simulator
@pytest.mark.parametrize("structure", ["chain", "tree"])
@pytest.mark.parametrize("bits", [5, 6, 7])
def test_the_overflow_flag_of_a_narrow_accumulator(bits, structure):
    random = np.random.default_rng(bits)
    design = Design(13, 4, 2, structure=structure, accumulator_bits=bits)
    arrays = random.integers(0, 16, (300, 13)), random.integers(-1, 2, (300, 2, 13)), random.integers(0, 256, (300, 2))
    simulated, expected = simulate(design, *arrays), evaluate(design, *arrays)
    assert (simulated.values == expected.values).all() and (simulated.overflow == expected.overflow).all()
    assert simulated.overflow.sum() > 0
    with pytest.raises(DbqError, match=f"accumulator of {bits} bits overflowed.*9 bits always suffice"):
        compare(design, *arrays)


@simulator
def test_an_engine_that_computes_something_else_is_noticed(monkeypatch):
    monkeypatch.setattr(simulation, "generate", lambda design: generate(design).replace(", right_carry}", ", 1'b0}"))
    case = Case("port", "tree", 9, 4, 1, 0.0)
    with pytest.raises(DbqError, match="disagree"):
        compare(case.design(), *vectors(case, 50))


@simulator
def test_a_failed_simulation_names_the_complaint(monkeypatch):
    monkeypatch.setattr(simulation, "generate", lambda design: "module tdpe; fault endmodule")
    with pytest.raises(DbqError, match=r"iverilog failed: .*tdpe.sv:.*error"):
        simulate(Design(3, 4, 1), np.zeros((1, 3), int), np.zeros((1, 3), int), [1])


@synthesiser
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize(("length", "bits", "branches"), [(2, 4, 1), (9, 4, 2), (27, 8, 1), (20, 2, 3)])
def test_synthesised_sums_equal_the_formulas(length, bits, branches, signed):
    scale = synthesise(Design(length, bits, branches, signed=signed)).scale_full_adders
    chain = synthesise(Design(length, bits, branches, signed=signed)).full_adders - scale
    tree = synthesise(Design(length, bits, branches, signed=signed, structure="tree")).full_adders - scale
    # a signed activation has its sign bit already: the engine is as wide as for one bit less
    assert chain == branches * ternary_adders(length, bits - signed, "adder_only")
    assert tree == branches * tree_adders(length, bits, signed)


@synthesiser
def test_zeros_vanish_and_constants_never_cost_more():
    random = np.random.default_rng(0)
    port = synthesise(Design(30, 4, 1))
    found = [synthesise(Design(30, 4, 1, planes=random_planes(random, (1, 30), rate))) for rate in (0.0, 0.5, 0.9, 1.0)]
    adders = [row.full_adders for row in (port, *found)]
    assert adders == sorted(adders, reverse=True) and adders[-1] == 0
    assert found[-1].cells == 0 < found[-2].cells < port.cells


@synthesiser
@pytest.mark.parametrize("structure", ["chain", "tree"])
@pytest.mark.parametrize("plane", [[1, 1], [1, -1], [-1, -1], [0, 1, 0, -1]])
def test_two_known_signs_leave_three_of_five_adders(plane, structure):
    # the carry-in is a constant, and so are both bits above the four of the activations
    found = synthesise(Design(len(plane), 4, 1, structure=structure, planes=np.array([plane])))
    assert found.full_adders - found.scale_full_adders == 3


@synthesiser
def test_the_scale_multiplication_has_a_row_less_than_counted():
    for branches in (1, 2):
        design = Design(9, 8, branches)
        width = 8 + 1 + 4
        additions = (branches - 1) * (width + 8 - 1)
        assert synthesise(design).scale_full_adders == branches * (design.scale_bits - 1) * width + additions
        assert counts.counted(design)["scale"] == branches * design.scale_bits * width + (branches - 1) * (width + 8)


@simulator
@synthesiser
def test_a_fresh_measurement(tmp_path, monkeypatch):
    cases = grid([3], [4], [2], [0.5])
    monkeypatch.setattr(measure, "committed_grid", lambda: cases)
    rows, source = measurements(tmp_path, fresh=True)
    assert f"Yosys {tools.version('yosys')}" in source and "in this run" in source
    assert rows == measure_all(cases, jobs=2)
    assert {(row["kind"], row["structure"]) for row in rows} == {(k, s) for k in ("port", "constant") for s in ("chain", "tree")}
    assert all(row["mismatches"] == 0 and row["simulated_dot_products"] == {"port": 10_000, "constant": 1_000}[row["kind"]] for row in rows)
