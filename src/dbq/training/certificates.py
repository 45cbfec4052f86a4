"""What must hold of a finished quantized network, checked after every training; a violated certificate fails the stage."""

import torch

from dbq.errors import DbqError
from dbq.insertion.policies import method_quantizers
from dbq.quantizers.dbq import BranchQuantizer
from dbq.training.runs import Run

SOFT_GAP = 0.02  # of the largest level, for DBQ with a soft forward pass: what was trained must be what is evaluated
OSCILLATING = 0.25  # of a layer's weights
FINE_LEVELS = (
    SOFT_GAP  # of the largest level: neighbours this near are crossed by a weight's ordinary motion, and a crossing changes no more
)
COLUMNS = ["certificate", "layer", "value", "limit", "holds"]


def certify(run: Run, method: str) -> list[dict]:
    """One row a certificate, of the layer where it is worst: value, limit (None: reported, not judged), holds."""
    layers = list(method_quantizers(run.network, method))
    rows = [_row("layers left to the method", "all", len(layers), None, bool(layers))]
    rows.append(
        _row("every layer once in the policy table", "all", len(run.policy), None, len({r.layer for r in run.policy}) == len(run.policy))
    )
    measures = [
        ("distance of soft from hard weights", _gap, SOFT_GAP if _trains_soft(layers) else None),
        ("smallest distance of neighbouring levels", lambda q, w: -float(q.transfer(w).levels.diff().min()), 0.0),
        ("zero rate of the emptiest plane", _emptiest_plane, 1 - 1e-9),
    ]
    for name, measure, limit in measures:
        values = {layer: value for layer, quantizer, weight in layers if (value := measure(quantizer, weight)) is not None}
        if values:
            worst = max(values, key=values.get)
            holds = limit is None or (values[worst] < limit if name.startswith("smallest") else values[worst] <= limit)
            shown = -values[worst] if name.startswith("smallest") else values[worst]
            rows.append(_row(name, worst, shown, None if limit is None else abs(limit), holds))
    return [*rows, _collapse(layers), *_oscillation(layers, run.fit.oscillating)]


def demand(rows: list[dict], key: str) -> None:
    """Raise DbqError naming each violated certificate."""
    violated = [
        f"{row['certificate']} (layer {row['layer']}: {row['value']:.3g}, limit {row['limit']})" for row in rows if not row["holds"]
    ]
    if violated:
        raise DbqError(f"rows.{key}: violated: {'; '.join(violated)}", "lower learning_rate or scale_learning_rate, or train longer")


def _row(name, layer, value, limit, holds) -> dict:
    return {"certificate": name, "layer": layer, "value": float(value), "limit": limit, "holds": bool(holds)}


def _trains_soft(layers) -> bool:
    """Of DBQ; a rival's gap is its published rule's, and is reported."""
    return any(isinstance(quantizer, BranchQuantizer) and quantizer.config.forward == "soft" for _, quantizer, _ in layers)


@torch.no_grad()
def _gap(quantizer, weight) -> float | None:
    gap = quantizer.soft_hard_gap(weight)
    return None if gap is None else float(gap)


@torch.no_grad()
def _emptiest_plane(quantizer, weight) -> float | None:
    if quantizer.coding == "fixed_point":
        return None
    return float((quantizer.decompose(weight).planes == 0).float().flatten(1).mean(1).max())


def _collapse(layers) -> dict:
    for layer, quantizer, weight in layers:
        try:
            quantizer.check(weight, layer)
        except DbqError as error:
            return _row(f"no dead or collapsed branch: {error.problem}", layer, 1, 0, False)
    return _row("dead or collapsed branches", "all", 0, 0, True)


def _oscillation(layers, rates: dict[str, float]) -> list[dict]:
    """Judged where levels are so far apart that a return to one changes the weight by more than is tolerated of soft against hard.

    Between the 255 levels of 8 bits weights come and go by the ordinary motion of training, quantized or not
    (docs/accuracy.md): there the rate is reported.
    """
    judged, reported = {}, {}
    for name, quantizer, weight in layers:
        if name in rates:
            levels = quantizer.transfer(weight).levels
            coarse = float(levels.diff().max() / levels.abs().max()) > FINE_LEVELS
            (judged if coarse else reported)[name] = rates[name]
    rows = []
    for found, limit, name in (
        (judged, OSCILLATING, "weights that oscillate in the last epoch"),
        (reported, None, "weights that change to a fine level and back in the last epoch"),
    ):
        if found:
            worst = max(found, key=found.get)
            rows.append(_row(name, worst, found[worst], limit, limit is None or found[worst] <= limit))
    return rows
