"""The settings of every method, for the tests of this folder."""

from dbq.settings.quantizers import METHODS

DEFAULTS = {
    "dbq": {
        "branches": 2, "forward": "hard", "temperature": 7.0, "scales": "layer", "gradient_scale": "lsq", "initial": "least_squares",
    },
    "uniform": {"bits": 8},
    "twn": {"scales": "channel"},
    "ttq": {"threshold": 0.05, "initial": "mean", "gradient_scale": "lsq"},
    "lsq": {"bits": 4, "levels": "symmetric"},
    "lq_nets": {"branches": 2, "scales": "channel"},
    "quantization_networks": {"levels": [-1, 0, 1], "temperature_step": 20.0, "temperature_cap": 2000.0},
    "sawb": {"bits": 4},
}  # fmt: skip


def settings_of(method, **changes):
    return METHODS[method](**{**DEFAULTS[method], **changes})
