"""The table of trained networks, as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from leanconv.report.tables import Row, integer, macs, markdown_text, spread

HEADS = ("Network", "Recipe", "Epochs", "Parameters", "MACs", "Images/s", "Minutes", "Validation %", "Test %", "n")


def markdown(rows: Sequence[Row]) -> str:
    """Each network with its recipe, its counts, its training time and its accuracy."""
    body = [
        [
            row["network"], row["recipe"], str(row["epochs"]), integer(row["params"]), macs(row["macs"]),
            str(row["images_per_s"]), f"{row['train_minutes']:.1f}",
            spread(row["val_top1_pct"], None), spread(row["test_top1_pct"], row.get("test_top1_std")), str(row["n"]),
        ]
        for row in rows
    ]  # fmt: skip
    note = "The test part was read once, after training. The validation part is held out of the train part."
    if any(row.get("test_top1_std") is not None for row in rows):
        note += " ± is the standard deviation over n seeds."
    return markdown_text(HEADS, body, note, left=("Network", "Recipe"))
