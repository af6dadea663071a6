"""The memory of each form of layers and networks, as tables."""

from __future__ import annotations

from collections.abc import Sequence

from leanconv.report.tables import NONE, Row, markdown_text, ratio, size

NOTE = (
    "weights: of the network, each shared weight once. working: what a process of its own holds after a call, without what it "
    "held before it opened the network. peak: the most during a call. Ratios compare with the first network in the same "
    "runtime, form and batch."
)
LAYER_NOTE = (
    "Ratios to the dense convolution, on one shape after the other. weights: of the form. maps: all tensors that are alive at "
    "once during a call, with the output. peak: resident memory during a call, with the scratch space of libraries."
)


def markdown(rows: Sequence[Row]) -> str:
    """The memory of networks in each runtime and form.

    Args:
        rows: of a results file of kind "memory".
    """
    own = [row for row in rows if row["part"] == "network"]
    first = {_where(row): row for row in reversed(own)}
    body = [
        [
            str(row["batch"]), row["network"], row["runtime"], row["form"], size(row["weights_bytes"]), size(row["file_bytes"]),
            *(
                text
                for key in ("working_bytes", "peak_bytes")
                for text in (size(row[key]), _ratio(row[key], first[_where(row)][key]))
            ),
        ]
        for row in sorted(own, key=lambda row: row["batch"])
    ]  # fmt: skip
    heads = (
        "Batch", "Network", "Runtime", "Form", "weights", "file", "working", "working, ratio", "peak", "peak, ratio",
    )  # fmt: skip
    return markdown_text(heads, body, NOTE, left=4)


def markdown_of_layers(rows: Sequence[Row]) -> str:
    """The memory of each form of a layer, as ratios to the dense convolution of the same shape.

    Args:
        rows: of a results file of kind "memory".
    """
    own = [row for row in rows if row["part"] == "layer"]
    shapes = list(dict.fromkeys(_shape(row) for row in own))
    dense = {_shape(row): row for row in own if row["method"] == "dense"}
    found = {(row["method"], row["form"], _shape(row)): row for row in own if row["method"] != "dense"}
    body = []
    for method, form in dict.fromkeys(key[:2] for key in found):
        here = [(found.get((method, form, shape)), dense[shape]) for shape in shapes]
        texts = [
            " / ".join(NONE if row is None else _ratio(row[key], base[key]) for row, base in here)
            for key in ("weights_bytes", "maps_bytes", "peak_bytes")
        ]
        body.append([method, form, *texts])
    said = ", ".join(f"{channels} channels on {side}x{side}" for channels, side in shapes)
    heads = ("Layer", "Form", "weights", "maps", "peak")
    return markdown_text(heads, body, f"{LAYER_NOTE} Shapes: {said}; batch {own[0]['batch']}.", left=2)


def _where(row: Row) -> tuple[str, str, int]:
    return row["runtime"], row["form"], row["batch"]


def _shape(row: Row) -> tuple[int, int]:
    return row["channels"], row["side"]


def _ratio(value: float | None, base: float | None) -> str:
    return ratio(value / base if value is not None and base else None)
