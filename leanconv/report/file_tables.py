"""Tables of exported files: their sizes, their errors, and their int8 versions."""

from __future__ import annotations

from collections.abc import Sequence

from leanconv.report.tables import Row, macs, markdown_text, quartiles, ratio, size

SIZES_NOTE = (
    "Unique: the network's parameters and buffers, each counted once; all other sizes are multiples of this size. Loaded: the "
    "weights in the runtime's memory. Without its options: the compact file as ONNX Runtime loads it by default. TorchScript: "
    "torch's older exporter."
)
SIZES = (
    ("saved", "saved_bytes"),
    ("ONNX compact", "onnx_compact_bytes"),
    ("loaded", "onnx_compact_loaded_bytes"),
    ("without its options", "onnx_compact_loaded_without_options_bytes"),
    ("ONNX fast", "onnx_fast_bytes"),
    ("loaded", "onnx_fast_loaded_bytes"),
    ("TorchScript ONNX", "torchscript_onnx_bytes"),
    ("pt2", "pt2_compact_bytes"),
    ("OpenVINO", "openvino_compact_bytes"),
    ("loaded", "openvino_compact_loaded_bytes"),
)


def markdown_of_sizes(rows: Sequence[Row]) -> str:
    """The size of each format as a multiple of the network's unique size: one line for each network."""
    body = [
        [row["network"], size(row["unique_bytes"])]
        + ["–" if row[key] is None else f"{row[key] / row['unique_bytes']:.2f}" for _, key in SIZES]
        for row in rows
    ]
    return markdown_text(("Network", "Unique", *(head for head, _ in SIZES)), body, SIZES_NOTE)


def markdown_of_reloads(rows: Sequence[Row]) -> str:
    """The largest output error of each file when a new process reads it: one line for each network."""
    names = list(rows[0]["reloaded_error"])
    body = [[row["network"], *(f"{row['reloaded_error'][name]:.1e}" for name in names)] for row in rows]
    note = "The largest difference from PyTorch's output, in a new process, as a share of the largest output."
    return markdown_text(("Network", *names), body, note)


RUNTIMES = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}


def markdown_of_int8(rows: Sequence[Row]) -> str:
    """File size, accuracy and latency in float32 and in int8: one line for each network."""
    body = []
    for network in dict.fromkeys((row["network"], row["method"]) for row in rows):
        before, after = (
            next(row for row in rows if (row["network"], row["method"]) == network and row["weights"] == weights)
            for weights in ("float32", "int8")
        )
        body.append([
            *network, size(before["file_bytes"]), size(after["file_bytes"]),
            f"{before['top1_pct']:.2f}", f"{after['top1_pct']:.2f}", f"{after['top1_pct'] - before['top1_pct']:+.2f}",
            quartiles(before, "latency_ms"), quartiles(after, "latency_ms"), quartiles(after, "ratio"),
        ])  # fmt: skip
    heads = ("Network", "Method", "float32", "int8", "Top-1 %", "int8", "change", "ms", "int8", "ratio")
    runtime = RUNTIMES[rows[0].get("runtime", "onnxruntime")]  # earlier files have ONNX Runtime only
    note = (
        f"File size, test accuracy, and milliseconds a call, all in {runtime}. Each row is one trained network (n = 1). "
        "The int8 ranges come from training images."
    )
    return markdown_text(heads, body, note, left=2)


def markdown_of_int8_networks(rows: Sequence[Row]) -> str:
    """The time of networks in float32 and in int8, in one runtime: one line for each network and batch."""
    body = []
    for batch, network in dict.fromkeys((row["batch"], row["network"]) for row in rows):
        before, after = (
            next(row for row in rows if (row["batch"], row["network"], row["weights"]) == (batch, network, weights))
            for weights in ("float32", "int8")
        )
        body.append([
            str(batch), network, macs(before["macs"]), size(before["file_bytes"]), size(after["file_bytes"]),
            quartiles(before, "latency_ms"), ratio(before["of_dense"]), quartiles(after, "latency_ms"), ratio(after["of_dense"]),
            ratio(after["of_float32"]),
        ])  # fmt: skip
    heads = (
        "Batch", "Network", "MACs", "float32", "int8", "ms float32", "of dense", "ms int8", "of dense", "int8 of float32",
    )  # fmt: skip
    note = (
        "Bytes of the files, and milliseconds a call, median and quartiles; all rows of a batch were timed in one interleaved "
        "run. of dense: the time as a share of the first network's with the same weights."
    )
    return markdown_text(heads, body, note, left=2)
