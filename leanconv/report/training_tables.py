"""The table of trained networks, as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from leanconv.report.tables import Row, integer, macs, markdown_text

HEADS = ("Network", "Recipe", "Epochs", "Parameters", "MACs", "Images/s", "Minutes", "Validation %", "Test %", "n")


def markdown(rows: Sequence[Row]) -> str:
    """Each network with its recipe, its counts, its training time and its accuracy."""
    body = [
        [
            row["network"], row["recipe"], str(row["epochs"]), integer(row["params"]), macs(row["macs"]),
            str(row["images_per_s"]), f"{row['train_minutes']:.1f}", f"{row['val_top1_pct']:.2f}",
            f"{row['test_top1_pct']:.2f}", str(row["n"]),
        ]
        for row in rows
    ]  # fmt: skip
    note = "The test part was read once, after training. The validation part is held out of the train part."
    return markdown_text(HEADS, body, note, left=("Network", "Recipe"))
