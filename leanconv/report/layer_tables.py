"""Tables of timed layers, of predicted network times, of training steps, and of a runtime's own profile."""

from __future__ import annotations

import math
from collections.abc import Sequence

from leanconv.report.tables import NONE, Row, integer, macs, markdown_text, quartiles, ratio

NOTE = (
    "The time of the lean layer as a share of the dense convolution's time, in the same runtime: the geometric mean over the "
    "shapes, and the worst shape."
)
STEP_NOTE = (
    "ms a step: milliseconds a training step, median and quartiles over interleaved rounds. Ratios compare with dense on the "
    "same number of threads."
)


def summary(rows: Sequence[Row]) -> list[Row]:
    """One row for each family, batch, runtime and precision: the geometric mean of the ratios, and the worst shape."""
    found = []
    for key in dict.fromkeys(_key(row) for row in rows):
        own = [row for row in rows if _key(row) == key]
        worst = max(own, key=lambda row: float(row["ratio"]))
        found.append({
            "family": key[0], "batch": key[1], "runtime": key[2], "precision": key[3], "shapes": len(own),
            "macs_ratio": _mean([row["macs_ratio"] for row in own]), "ratio": _mean([row["ratio"] for row in own]),
            "worst": worst["ratio"], "worst_shape": worst["shape"],
        })  # fmt: skip
    return found


def _key(row: Row) -> tuple[str, int, str, str]:
    return row["family"], row["batch"], row["runtime"], row["precision"]


def _mean(values: Sequence[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values))


def markdown(rows: Sequence[Row]) -> str:
    """The table of `summary`: one line for each family, one column for each batch, runtime and precision."""
    totals = summary(rows)
    settings = list(dict.fromkeys((row["batch"], row["runtime"], row["precision"]) for row in totals))
    heads = ["Layers", "MACs", *(f"{runtime}, {precision}, batch {batch}" for batch, runtime, precision in settings)]
    body = []
    for family in dict.fromkeys(row["family"] for row in totals):
        own = {(row["batch"], row["runtime"], row["precision"]): row for row in totals if row["family"] == family}
        cells = [f"{own[key]['ratio']:.2f} (worst {own[key]['worst']:.2f})" if key in own else "–" for key in settings]
        body.append([family, ratio(next(iter(own.values()))["macs_ratio"]), *cells])
    return markdown_text(heads, body, NOTE)


def markdown_of_shapes(rows: Sequence[Row]) -> str:
    """The table of all timed shapes: one line for each."""
    heads = ("Layers", "Shape", "Runtime", "Batch", "Form", "MACs", "Dense ms", "Lean ms", "ratio")
    body = [
        [
            row["family"], row["shape"], f"{row['runtime']}, {row['precision']}", str(row["batch"]), row["form"],
            ratio(row["macs_ratio"]), f"{row['dense_ms']:.3f}", f"{row['lean_ms']:.3f}", quartiles(row, "ratio"),
        ]
        for row in rows
    ]  # fmt: skip
    return markdown_text(heads, body, "Times are medians over interleaved rounds; the ratio has its quartiles.", left=5)


def markdown_of_steps(rows: Sequence[Row]) -> str:
    """The table of training steps: one line for each method and number of threads."""
    heads = ("Method", "Threads", "Parameters", "MACs", "ratio", "ms a step", "ratio", "Images/s")
    body = [
        [
            row["method"], str(row["threads"]), integer(row["params"]), macs(row["macs"]),
            ratio(row["macs"] / rows[0]["macs"]), quartiles(row, "step_ms"), ratio(row["step_ratio"]),
            f"{row['images_per_s']:,.0f}",
        ]
        for row in rows
    ]  # fmt: skip
    return markdown_text(heads, body, STEP_NOTE)


def markdown_of_predictions(rows: Sequence[Row]) -> str:
    """The table of networks: the time predicted from single layers, and the measured time."""
    heads = ("Network", "Method", "Batch", "Dense ms", "Predicted ms", "Measured ms", "off by")
    body = [
        [
            row["network"], row["method"], str(row["batch"]), f"{row['dense_ms']:.2f}", f"{row['predicted_ms']:.2f}",
            f"{row['lean_ms']:.2f}", f"{100 * row['predicted_off']:+.0f} %",
        ]
        for row in rows
    ]  # fmt: skip
    return markdown_text(
        heads,
        body,
        "Predicted: the dense network's time, plus the lean time minus the dense time of each converted layer.",
        left=2,
    )


def markdown_of_profile(rows: Sequence[Row]) -> str:
    """The table of a runtime's own profile: the time of each kind of layer."""
    heads = ["Network", "Precision", "Kind of layer", "ms", "share"]
    body = [
        [row["network"], row["precision"], row["layer"], f"{row['layer_ms']:.2f}", ratio(row["share"])] for row in rows
    ]
    if all("layers" in row for row in rows):
        heads += ["layers", "GMAC/s"]
        for cells, row in zip(body, rows, strict=True):
            cells += [str(row["layers"]), NONE if row["gmac_per_s"] is None else f"{row['gmac_per_s']:.0f}"]
    return markdown_text(
        heads, body, "Times are medians over calls. Kinds of layers under 1 % of the time are left out.", left=3
    )
