"""The data for the script of the HTML page, which draws any two measures against each other."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from leanconv.core.shown import plain
from leanconv.report.figures import COLOURS, colours_of
from leanconv.report.latency_tables import LATENCY_IN
from leanconv.report.tables import Row

# key of a row: (label, scale of the label's unit, whether low or high is better, whether the axis starts at 0)
MEASURES: dict[str, tuple[str, float, str, bool]] = {
    "params": ("Parameters, thousands", 1e3, "low", True),
    "macs": ("MACs for one image, millions", 1e6, "low", True),
    "test_top1_pct": ("Test top-1 %", 1.0, "high", False),
    "val_top1_pct": ("Validation top-1 %", 1.0, "high", False),
    "latency_ms": ("Latency, ms", 1.0, "low", True),
    "weight_bytes": ("Weights, kB", 1e3, "low", True),
    "train_seconds": ("Training, s", 1.0, "low", True),
    "backbone_params": ("Parameters of the backbone, thousands", 1e3, "low", True),
    **{name: (f"{name}, %", 1.0, "high", False) for name in ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR")},
}


def data(rows: Sequence[Row], names: Sequence[str], reference: int | None) -> dict[str, Any]:
    """The data of the scatter plot: its measures, the two that it shows first, and all values as JSON for a script element.

    Args:
        rows: the measured rows.
        names: one for each row.
        reference: the index of the row that the others are compared with; None for none.
    """
    known = {key: about for key, about in MEASURES.items() if any(_number(row.get(key)) is not None for row in rows)}
    runtimes = dict.fromkeys(key for row in rows for key in row if key.startswith(LATENCY_IN))
    known |= {key: (f"Latency in {key.removeprefix(LATENCY_IN)}, ms", 1.0, "low", True) for key in runtimes}
    measures = [
        {"key": key, "label": label, "better": better, "zero": zero} for key, (label, _, better, zero) in known.items()
    ]
    colours = colours_of(names)
    points = [
        {
            "name": plain(name),
            "colour": colours[name],
            "shape": index // len(COLOURS),
            "reference": index == reference,
            "values": [_number(row.get(key), unit) for key, (_, unit, *_) in known.items()],
            "spreads": [_number(row.get(f"{key}_std"), unit) for key, (_, unit, *_) in known.items()],
        }
        for index, (name, row) in enumerate(zip(names, rows, strict=True))
    ]
    keys = list(known)
    up = next((keys.index(key) for key in ("test_top1_pct", "latency_ms", "AP") if key in known), len(keys) - 1)
    text = json.dumps({"rows": points, "measures": measures}, allow_nan=False)
    # no character in the JSON may end the script element or open a comment
    safe = text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    return {"measures": measures, "x": 0, "y": up, "json": Markup(safe)}


def _number(value: Any, unit: float = 1.0) -> float | None:
    return value / unit if isinstance(value, int | float) and not isinstance(value, bool) else None
