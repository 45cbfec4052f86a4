"""The result files of the stages pretrain and quantize, made from finished runs."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from dbq.files import read_json, write_csv, write_json, write_sealed
from dbq.insertion.policies import COLUMNS, branch_quantizers, method_quantizers, weight_quantizers
from dbq.quantizers import branch_function
from dbq.quantizers.dbq import temperature
from dbq.training import certificates
from dbq.training.loop import HISTORY
from dbq.training.runs import Run, beginning_of

if TYPE_CHECKING:
    from dbq.settings import Row, Start

BINS = 80
CURVE_POINTS = 401
BY_SEED = ("certificates.json", "weights.json", "annealing.json", "policy.csv")  # what a committed result has of them is kept


def label(stand_in: bool, devices: list[str], epochs: int, precision: str) -> str:
    """How far a number may be believed."""
    if stand_in:
        return "SMOKE: stand-in images, not evidence"
    if epochs == 0:
        return "MEASURED: external weights, evaluated here"
    on_cpus = all(part.strip().startswith("cpu") for device in devices for part in device.split(";"))
    return f"MEASURED: {'CPU-size schedule' if on_cpus else 'short schedule'} ({epochs} epochs, {precision})"


def zero_rates(network) -> tuple[float, list[float]]:
    """Fraction of zero weights over all quantized layers, and of zeros in each plane of the layers of branches (largest scale first)."""
    zeros, count, per_branch = 0, 0, []
    for name, quantizer, weight in weight_quantizers(network):
        zeros += int((network.get_submodule(name).weight == 0).sum())
        count += weight.numel()
        if quantizer.coding != "fixed_point":
            planes = quantizer.decompose(weight).planes
            per_branch.append(torch.stack([(planes == 0).sum((1, 2)), torch.tensor([weight.numel()] * len(planes), device=planes.device)]))
    if not per_branch:
        return (zeros / count if count else 0.0), []
    totals = torch.stack(per_branch).sum(0).double()
    return zeros / count, [float(rate) for rate in totals[0] / totals[1]]


def summary(run: Run) -> dict:
    """What is said of one seed; a committed result's as it was recorded."""
    if run.record is not None:
        return run.record
    zero_rate, per_branch = zero_rates(run.network)
    gap = run.fit.history[-1]["soft_hard_gap"] if run.fit.history else None
    return {
        "seed": run.seed, "epochs": len(run.fit.history), "top1": run.top1, "val_top1": run.fit.val_top1,
        "zero_rate": zero_rate, "zero_rate_per_branch": per_branch, "soft_hard_gap": gap, "identity": run.identity,
        **{name: run.provenance[name] for name in ("commit", "device", "torch", "data_source")},
    }  # fmt: skip


def metrics(entry: Row | Start, runs: list[Run]) -> dict:
    """What tables read; one schema for float and quantized networks, a mapping for each seed."""
    seeds = [summary(run) for run in runs]
    epochs, devices = seeds[0]["epochs"], [one["device"] for one in seeds]
    quantized = hasattr(entry, "method")
    result = {
        "status": "run", "key": entry.key, "profile": entry.profile, "network": entry.network, "dataset": entry.dataset,
        "method": entry.method if quantized else "float", "branches": entry.branches if quantized else 0,
        "weight_bits": entry.weight_bits if quantized else 32, "activation_bits": entry.activation_bits if quantized else 32,
        "judged": entry.judged if quantized else "test", "start": entry.start if quantized else None,
        "compared_with": entry.compared_with if quantized else None, "epochs": epochs, "data_source": seeds[0]["data_source"],
        "label": label(entry.dataset_settings.stand_in, devices, epochs, entry.training.precision), "seeds": seeds,
    }  # fmt: skip
    if not quantized:
        result["weights_source"] = entry.weights.source if entry.weights else "trained here"
    return result


def write_float(run: Run, start: Start, out) -> dict:
    """Write metrics.json, history.csv and model.pt; return the metrics, of which "state" is the digest of the weights."""
    out, values = Path(out), metrics(start, [run])
    beginning = beginning_of(run, start.key)
    values["seeds"][0] = {**values["seeds"][0], "state": beginning.digest}
    content = {
        "key": start.key,
        "network": start.network,
        "image_size": run.image_size,
        "digest": beginning.digest,
        "state": beginning.state,
    }
    write_sealed(out / "model.pt", content)
    write_json(out / "metrics.json", values)
    write_csv(out / "history.csv", run.fit.history if run.fit else run.past, HISTORY)
    return values


def write_row(runs: list[Run], row: Row, out) -> dict:
    """Write metrics.json, history.csv, policy.csv, weights.json, annealing.json, certificates.json and model.pt; return the metrics.

    Raises DbqError naming a violated certificate. Details of weights come from the first seed whose network is there; where every seed's
    result is committed, they are copied.
    """
    out, values = Path(out), metrics(row, runs)
    trained = [run for run in runs if run.network is not None]
    states = {str(run.seed): {name: value.cpu() for name, value in run.network.state_dict().items()} for run in trained}
    write_sealed(out / "model.pt", {"key": row.key, "network": row.network, "image_size": runs[0].image_size, "states": states})
    write_json(out / "metrics.json", values)
    write_csv(out / "history.csv", [epoch for run in runs for epoch in (run.fit.history if run.fit else run.past)], HISTORY)
    if not trained:
        for name in BY_SEED:
            if (source := runs[0].folder / name).is_file():
                shutil.copyfile(source, out / name)
        return values
    first = trained[0]
    write_csv(out / "policy.csv", [layer.as_dict() for layer in first.policy], COLUMNS)
    write_json(out / "weights.json", {"layers": weight_histograms(first.network, row.method)})
    write_json(out / "annealing.json", annealing_curves(row, first.network))
    certified = {str(run.seed): certificates.certify(run, row.method) for run in trained}
    for run in runs:
        if run.network is None and (path := run.folder / "certificates.json").is_file():
            certified[str(run.seed)] = read_json(path).get(str(run.seed), [])
    write_json(out / "certificates.json", certified)
    for rows in certified.values():
        certificates.demand(rows, row.key)
    return values


@torch.no_grad()
def weight_histograms(network, method: str) -> list[dict]:
    """Per layer of the method: histogram of the master weights on the axis of its levels, levels, thresholds, and weights per level."""
    layers = []
    for name, quantizer, weight in method_quantizers(network, method):
        shown = quantizer.transfer(weight)
        inputs, levels = shown.inputs.float().cpu(), shown.levels.float().cpu()
        edge = float(inputs.abs().max().clamp_min(levels.max())) * 1.02
        edges = torch.linspace(-edge, edge, BINS + 1)
        counts = torch.histc(inputs, BINS, -edge, edge)
        level_counts = torch.bincount(
            torch.bucketize(inputs.contiguous(), shown.thresholds.cpu(), right=True).flatten(), minlength=len(levels)
        )
        layers.append({
            "name": name, "edges": edges.tolist(), "counts": counts.int().tolist(), "levels": levels.tolist(),
            "thresholds": shown.thresholds.tolist(), "level_counts": level_counts.tolist(),
        })  # fmt: skip
    return layers


@torch.no_grad()
def annealing_curves(row: Row, network) -> dict:
    """The transfer curve of the first layer of branches, with its final scales, at the temperatures of five epochs, and hard."""
    first = next(iter(branch_quantizers(network)), None)
    if first is None:
        return {}
    name, quantizer, _ = first
    a, one = quantizer.a[:1], torch.ones((), device=quantizer.a.device)
    x = torch.linspace(-1.3, 1.3, CURVE_POINTS, device=a.device)[None] * a.sum()
    epochs = max(1, row.training.epochs)
    curves = []
    for epoch in sorted({0, epochs // 4, epochs // 2, 3 * epochs // 4, epochs}):
        heat = temperature(row.quantizer.temperature, epoch / epochs)
        outputs = branch_function.soft(x, a, one, one, (heat / a.sum(1, keepdim=True)))
        curves.append({"epoch": epoch, "temperature": heat, "outputs": outputs[0].tolist()})
    return {"layer": name, "inputs": x[0].tolist(), "curves": curves, "hard": branch_function.hard(x, a, one, one)[0].tolist()}


@torch.no_grad()
def branch_table(network) -> list[dict]:
    """Per layer of branches: scales, zero rates of the planes, soft-hard gap."""
    rows = []
    for name, quantizer, weight in branch_quantizers(network):
        parts = quantizer.decompose(weight)
        zero = [round(float((plane == 0).float().mean()), 3) for plane in parts.planes]
        scales = [round(value, 4) for value in parts.scales.mean(0).tolist()]
        gap = round(float(quantizer.soft_hard_gap(weight)), 5)
        rows.append({"layer": name, "branch_scales": scales, "zero_rate_per_branch": zero, "soft_hard_gap": gap})
    return rows
