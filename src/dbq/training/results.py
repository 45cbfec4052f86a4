"""The result files of the pretrain and quantize stages, made from finished runs."""

from pathlib import Path

import torch

from dbq.files import write_csv, write_json
from dbq.insertion.policies import COLUMNS, branch_quantizers, method_quantizers, weight_quantizers
from dbq.quantizers import branch_function
from dbq.quantizers.temperature import temperature
from dbq.settings.resolve import Row, Start, TrainingSettings, settings_of
from dbq.training import checkpoints
from dbq.training.loop import HISTORY
from dbq.training.runs import Run

BINS = 80
CURVE_POINTS = 401


def label(stand_in: bool, device: str, recipe: TrainingSettings, epochs: int) -> str:
    """How far a number may be believed."""
    if stand_in:
        return "SMOKE: stand-in images, not evidence"
    if epochs == 0:
        return "MEASURED: external weights, evaluated here"
    on_cpus = all(part.strip().startswith("cpu") for part in device.split(";"))
    return f"MEASURED: {'CPU-size schedule' if on_cpus else 'short schedule'} ({epochs} epochs, {recipe.precision})"


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
    """What is said of one seed."""
    zero_rate, per_branch = zero_rates(run.network)
    return {
        "seed": run.seed, "epochs": len(run.fit.history), "top1": run.top1, "val_top1": run.fit.val_top1,
        "zero_rate": zero_rate, "zero_rate_per_branch": per_branch,
        "device": run.provenance["device"], "data_source": run.provenance["data_source"],
    }  # fmt: skip


def metrics(entry: Start | Row, summaries: list[dict]) -> dict:
    """What tables read, from the summaries of all seeds; the same schema for float and quantized networks."""
    quantized = isinstance(entry, Row)
    first = summaries[0]
    device = "; ".join(dict.fromkeys(name for one in summaries for name in one["device"].split("; ")))
    result = {
        "status": "run", "key": entry.key, "settings": settings_of(entry),
        "profile": entry.profile, "network": entry.network, "dataset": entry.dataset,
        "method": entry.method if quantized else "float", "branches": entry.quantizer.branches if quantized else 0,
        "weight_bits": entry.quantizer.weight_bits if quantized else 32, "activation_bits": entry.activation_bits if quantized else 32,
        "epochs": first["epochs"], "seeds": [one["seed"] for one in summaries],
        **{name: [one[name] for one in summaries] for name in ("top1", "val_top1", "zero_rate")},
        "device": device, "data_source": first["data_source"],
        "label": label(entry.dataset_settings.stand_in, device, entry.training, first["epochs"]),
    }  # fmt: skip
    if quantized:
        result |= {"float_key": entry.start, "zero_rate_per_branch": [one["zero_rate_per_branch"] for one in summaries]}
    else:
        result["weights_source"] = entry.weights.source if entry.weights else "trained here"
    return result


def write_float(run: Run, entry: Start, folder, model) -> dict:
    """Write metrics.json, history.csv and the model file; return the metrics."""
    values = metrics(entry, [summary(run)])
    checkpoints.save(model, {"key": entry.key, "network": entry.network, "image_size": run.image_size, "state": run.network.state_dict()})
    write_json(Path(folder) / "metrics.json", values)
    write_csv(Path(folder) / "history.csv", run.fit.history, HISTORY)
    return values


def write_quantized(runs: list[Run], entry: Row, folder, model) -> dict:
    """Write metrics.json, history.csv, policy.csv, weights.json, annealing.json and the model file of all seeds."""
    folder = Path(folder)
    values = metrics(entry, [summary(run) for run in runs])
    states = {str(run.seed): run.network.state_dict() for run in runs}
    checkpoints.save(model, {"key": entry.key, "network": entry.network, "image_size": runs[0].image_size, "states": states})
    write_json(folder / "metrics.json", values)
    write_csv(folder / "history.csv", [row for run in runs for row in run.fit.history], HISTORY)
    write_csv(folder / "policy.csv", [row.as_dict() for row in runs[0].policy], COLUMNS)
    write_json(folder / "weights.json", {"layers": weight_histograms(runs[0].network, entry.method)})
    write_json(folder / "annealing.json", annealing_curves(entry, runs[0].network))
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
def annealing_curves(entry: Row, network) -> dict:
    """The transfer curve of the first layer of branches, with its final scales, at the temperatures of five epochs, and hard."""
    first = next(iter(branch_quantizers(network)), None)
    if first is None:
        return {}
    name, quantizer, _ = first
    a, one = quantizer.a[:1], torch.ones((), device=quantizer.a.device)
    x = torch.linspace(-1.3, 1.3, CURVE_POINTS, device=a.device)[None] * a.sum()
    epochs = max(1, entry.training.epochs)
    curves = []
    for epoch in sorted({0, epochs // 4, epochs // 2, 3 * epochs // 4, epochs}):
        heat = temperature(entry.quantizer.temperature, epoch / epochs)
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
