"""Tables of large data and long runs: what was measured, and what follows from it for ImageNet on several GPUs."""

from __future__ import annotations

import math
from collections.abc import Sequence

from leanconv.report.tables import Row, duration, integer, macs, markdown_text, ratio, size

IMAGENET, EPOCHS, GPUS = 1_281_167, 90, 8  # images of the train part; the usual length of a run; one machine
RATES = (500, 1000, 2000, 3000)  # images that one GPU may train in a second


def markdown_of_opening(rows: Sequence[Row]) -> str:
    """Time and memory of opening large data sets.

    Args:
        rows: of a results file of kind "data_index".
    """
    body = [
        [
            row["source"], integer(row["images"]), duration(row["seconds"]), duration(row["cpu_seconds"]),
            size(row["bytes"]), f"{row['bytes'] / row['images']:.0f}",
        ]
        for row in rows
    ]  # fmt: skip
    note = (
        "Opened in a process of its own. Time: on a machine with other programs. Processor time: of all threads. Memory: the "
        "peak above the memory of the imports. The files are in the page cache of the system."
    )
    return markdown_text(("Data", "Images", "Time", "Processor time", "Memory", "Bytes an image"), body, note)


def markdown_of_long(rows: Sequence[Row]) -> str:
    """Time and memory of long runs, large comparisons and deep networks.

    Args:
        rows: of a results file of kind "scale".
    """
    said = {
        "records": "records of metrics.jsonl, read and drawn into the page of their run",
        "runs": "finished runs, read and compared: table, report and page",
        "convolutions": "convolutions planned",
    }
    body = [
        [
            integer(row["count"]), said[row["work"]], duration(row["seconds"]), duration(row["cpu_seconds"]), size(row["bytes"]),
        ]
        for row in rows
    ]  # fmt: skip
    note = "Each in a process of its own. Time: with other programs at work. Memory: the peak above the memory of the imports."
    return markdown_text(("Number", "What", "Time", "Processor time", "Memory"), body, note, left=("What",))


def markdown_of_input(rows: Sequence[Row]) -> str:
    """Images a second that one core reads, decodes, crops and normalises.

    Args:
        rows: of a results file of kind "imagenet".
    """
    body = [[_rate(row), size(row["file_bytes"])] for row in rows if row["part"] == "input"]
    note = (
        "Measured in processor time of one core, with the quartiles of the epochs: JPEG files of 500x375 pixels, random crops of "
        "224x224."
    )
    return markdown_text(("Images/s of a core", "Mean file"), body, note, left=0)


def markdown_of_steps(rows: Sequence[Row]) -> str:
    """Images a second in the training step of each network, and the memory that the step needs.

    Args:
        rows: of a results file of kind "imagenet".
    """
    body = [
        [
            row["network"], row["precision"], integer(row["params"]), macs(row["macs"]), f"{row['images_per_s']:.2f}",
            ratio(row["images_per_s"] / _first(rows, row)["images_per_s"]), size(row["stored_bytes"]), size(12 * row["params"]),
        ]
        for row in rows
        if row["part"] == "step"
    ]  # fmt: skip
    note = (
        "Images/s of one core are measured, in its processor time. Ratio: to the first network in the same precision. Stored: "
        "bytes for each image that the forward pass keeps for the backward pass, measured. State: float32 weights, gradients and "
        "momentum, 12 bytes for each parameter, computed."
    )
    heads = ("Network", "Precision", "Parameters", "MACs", "Images/s", "ratio", "Stored", "State")
    return markdown_text(heads, body, note, left=2)


def markdown_of_needs(rows: Sequence[Row]) -> str:
    """What 8 GPUs need, computed from the measured rate of one core.

    Args:
        rows: of a results file of kind "imagenet".
    """
    core = next(row for row in rows if row["part"] == "input")
    body = []
    for rate in RATES:
        together = GPUS * rate
        body.append([
            integer(rate), integer(together), integer(math.ceil(together / core["images_per_s"])),
            f"{together * core['file_bytes'] / 1e6:,.0f} MB/s", f"{EPOCHS * IMAGENET / together / 3600:.1f} h",
        ])  # fmt: skip
    note = (
        f"Computed. Cores: the images a second of all GPUs, divided by the {core['images_per_s']:.0f} images a second that one "
        f"core of the measured machine decodes. Read: this rate times the mean file. Time: {EPOCHS} x {IMAGENET:,} images."
    )
    heads = ("Images/s of one GPU", f"of {GPUS} GPUs", "Cores that decode", "Read from storage", f"{EPOCHS} epochs")
    return markdown_text(heads, body, note, left=0)


def _rate(row: Row) -> str:
    return f"{row['images_per_s']:.0f} ({row['images_per_s_q25']:.0f}–{row['images_per_s_q75']:.0f})"


def _first(rows: Sequence[Row], row: Row) -> Row:
    return next(other for other in rows if other["part"] == "step" and other["precision"] == row["precision"])
