"""The table of trained networks, as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from leanconv.report.tables import NONE, Row, integer, macs, markdown_text

HEADS = ("Network", "Recipe", "Epochs", "Parameters", "MACs", "Images/s", "Minutes", "Validation %", "Test %", "n")


def markdown(rows: Sequence[Row]) -> str:
    """Each network with its recipe, its counts, its training time and its accuracy."""
    body = [
        [
            row["network"], row["recipe"], str(row["epochs"]), integer(row["params"]), macs(row["macs"]),
            str(row["images_per_s"]), f"{row['train_minutes']:.1f}",
            NONE if row["val_top1_pct"] is None else f"{row['val_top1_pct']:.2f}", _test(row), str(row["n"]),
        ]
        for row in rows
    ]  # fmt: skip
    note = "The test part was read once, after training. The validation part is held out of the train part."
    if any(row.get("test_top1_std") is not None for row in rows):
        note += " ± is the standard deviation over n seeds."
    return markdown_text(HEADS, body, note, left=("Network", "Recipe"))


def _test(row: Row) -> str:
    spread = row.get("test_top1_std")
    return f"{row['test_top1_pct']:.2f}" + ("" if spread is None else f" ± {spread:.2f}")
