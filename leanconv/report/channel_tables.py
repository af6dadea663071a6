"""Tables of channel orders and of pruning."""

from __future__ import annotations

from collections.abc import Sequence

from leanconv.report.tables import Row, macs, markdown_text


def markdown_of_orders(rows: Sequence[Row]) -> str:
    """In how many networks another order of channels computed the same, and the largest difference."""
    largest = max(rows, key=lambda row: row["error"])
    body = [
        [
            f"{len(rows)}",
            f"{sum(row['channels'] > 0 for row in rows)}",
            f"{sum(row['channels'] for row in rows):,}",
            f"{largest['error']:.0e} ({largest['network']})",
        ]
    ]
    note = (
        "Random weights in float64; every free channel in a random order. The difference is the largest of the outputs, "
        "relative to their standard deviation. The file has a row for each network."
    )
    return markdown_text(("Networks", "With free channels", "Channels moved", "Largest difference"), body, note)


def markdown_of_fits(rows: Sequence[Row]) -> str:
    """The error and the accuracy of one-shot fits, in the present and the chosen order of channels."""
    body = [
        [row["network"], row["change"], f"{row['fit_error']:.3f}", f"{row['top1_pct']:.2f}"]
        for row in rows
        if "fit_error" in row
    ]
    dense = next(row["top1_pct"] for row in rows if row["network"] == "dense")
    note = (
        "Fit error: the share of the weights' energy that the fitted layers do not hold, the mean over layers. "
        f"Top-1 on the test part after the fit, without training; the dense network has {dense:.2f}."
    )
    return markdown_text(("Method", "Order", "Fit error", "Top-1 %"), body, note, left=2)


def markdown_of_pruning(rows: Sequence[Row]) -> str:
    """The accuracy of pruned networks by criterion, without training."""
    pruned = [row for row in rows if "macs" in row]
    body = [[row["network"], row["change"], macs(row["macs"]), f"{row['top1_pct']:.2f}"] for row in pruned]
    return markdown_text(
        ("Network", "Criterion", "MACs", "Top-1 %"),
        body,
        "Top-1 on the test part, without training after pruning.",
        left=2,
    )
