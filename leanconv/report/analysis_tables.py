"""Tables of the results of analyses. Every function takes the rows of a results file of kind "analysis"."""

from __future__ import annotations

from collections.abc import Sequence

from leanconv.report.tables import Row, integer, macs, markdown_text

ONE = "One network each."


def _of(rows: Sequence[Row], what: str) -> list[Row]:
    return [row for row in rows if row["what"] == what]


def filters(rows: Sequence[Row]) -> str:
    """The similarity of filters: one line for each layer, one column for each network."""
    own = _of(rows, "filters")
    networks = list(dict.fromkeys(row["network"] for row in own))
    body = []
    for layer in dict.fromkeys(row["layer"] for row in own):
        line = [layer]
        for network in networks:
            row = next(r for r in own if r["layer"] == layer and r["network"] == network)
            line.append(f"{row['mean']:.2f} ({row['q25']:.2f}-{row['q75']:.2f})")
        body.append(line)
    return markdown_text(("Layer", *networks), body, f"Mean cosine of all pairs, and quartiles. {ONE}")


def bases(rows: Sequence[Row]) -> str:
    """The similarity of components and coefficients: one line for each group of layers."""
    body = [
        [row["network"], str(row["group"]), *(f"{row[what]:.3f}" for what in ("shared", "components", "coefficients"))]
        for row in _of(rows, "bases")
    ]
    heads = ("Penalty", "Group", "shared components", "all components", "coefficients")
    return markdown_text(heads, body, f"Mean absolute cosine of all pairs. {ONE}", left=2)


def pruning(rows: Sequence[Row]) -> str:
    """The accuracy after pruning the smallest blending weights: one line for each pruned fraction."""
    body = [
        [
            f"{row['fraction']:.0%}",
            integer(row["blending"]),
            integer(row["params"]),
            f"{row['factor']:.2f}",
            f"{row['top1_pct']:.2f}",
        ]
        for row in _of(rows, "pruning")
    ]
    heads = ("Pruned", "blending weights left", "parameters left", "times fewer", "Test top-1 %")
    return markdown_text(heads, body, f"No network was retrained after pruning. {ONE}")


def gradients(rows: Sequence[Row]) -> str:
    """The gradients of shared weights, as means over the training steps: one line for each weight."""
    own = _of(rows, "gradients")
    networks = list(dict.fromkeys(row["network"] for row in own))
    body = []
    for tensor in dict.fromkeys(row["tensor"] for row in own):
        found = [next(r for r in own if r["tensor"] == tensor and r["network"] == network) for network in networks]
        body.append([tensor.removesuffix(".weight"), *(f"{r['max']:.2g}; {r['mean']:.2g}" for r in found)])
    return markdown_text(
        ("Shared weight", *networks), body, f"Largest and mean absolute gradient, means over all steps. {ONE}"
    )


def ranks(rows: Sequence[Row]) -> str:
    """The test error against the number of shared and unique components: one line for each network."""
    body = [
        [row["name"], integer(row["params"]), macs(row["macs"]), f"{row['factor']:.2f}", f"{row['error_pct']:.2f}"]
        for row in _of(rows, "ranks")
    ]
    return markdown_text(("Network", "Parameters", "MACs", "times fewer", "Test error %"), body, ONE)


def maps(rows: Sequence[Row]) -> str:
    """The share of near-duplicates among the input maps of each layer."""
    body = [[row["layer"], str(row["maps"]), f"{row['redundant']:.0%}"] for row in _of(rows, "maps")]
    return markdown_text(
        ("Layer", "maps", "near-duplicates"), body, f"Near-duplicates: the absolute correlation is at least 0.9. {ONE}"
    )


def spectrum(rows: Sequence[Row]) -> str:
    """The rank that a stage's stacked filters need, for three shares of the squared norm."""
    body = [
        [f"stage {row['stage']}, {row['layers']} layers", f"{row['filters']} x {row['inputs']}"]
        + [str(row[f"rank_{e}"]) for e in (90, 95, 99)]
        for row in _of(rows, "spectrum")
    ]
    return markdown_text(
        ("Layers", "Filters x inputs", "rank for 90 %", "95 %", "99 %"),
        body,
        f"Rank: singular values that hold this share of the squared norm. {ONE}",
    )
