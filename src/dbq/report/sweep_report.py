"""What holds of every row of a sweep, side by side: certificates and resolved layer policy."""

import pandas as pd


def certificates(rows: list[dict]) -> pd.DataFrame:
    """One line a certificate, one column a row of the sweep: the worst value of its layers and seeds.

    `limit` is empty for what is reported and not judged, and in a line of different limits; `holds` is of all rows and seeds.
    """
    lines: dict[str, dict] = {}
    for row in rows:
        for one in (one for of_seed in row["certificates"] for one in of_seed):
            line = lines.setdefault(one["certificate"], {"limit": set(), "holds": True, "values": {}})
            line["limit"].add(one["limit"])
            line["holds"] &= one["holds"]
            worst = min if one["certificate"].startswith("smallest") else max
            line["values"][row["row"]] = worst(line["values"].get(row["row"], one["value"]), one["value"])
    return pd.DataFrame([
        {
            "certificate": name, "limit": next(iter(line["limit"])) if len(line["limit"]) == 1 else None, "holds": line["holds"],
            **{row["row"]: line["values"].get(row["row"]) for row in rows},
        }
        for name, line in lines.items()
    ])  # fmt: skip


def policy(rows: list[dict]) -> pd.DataFrame:
    """One line a layer, one column a row of the sweep: the quantizer of its weights."""
    layers = [{"layer": layer["layer"], "kind": layer["kind"]} for layer in rows[0]["policy"]]
    for row in rows:
        for line, layer in zip(layers, row["policy"], strict=True):
            line[row["row"]] = _weights(layer)
    return pd.DataFrame(layers)


def _weights(layer: dict) -> str:
    branches = f", {layer['branches']}T" if layer["branches"] else ""
    return f"{layer['quantizer']}{branches}, {layer['weight_bits']} bits"
