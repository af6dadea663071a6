"""Tables of fits before any training, as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from leanconv.report.tables import Row, markdown_text

FITS = ("weights", "outputs", "sequential")


def markdown(rows: Sequence[Row]) -> str:
    """Test accuracy with the norms of the dense network and with norms that were estimated again, for each method and fit."""
    rows = [row for row in rows if row["what"] == "fits"]
    body = []
    for method in dict.fromkeys(row["method"] for row in rows):
        found = {row["fit"]: row for row in rows if row["method"] == method}
        body.append([
            method, f"{found['weights']['params_ratio']:.2f}", f"{found['weights']['macs_ratio']:.2f}",
            *(f"{found[fit][key]:.1f}" for key in ("top1_pct", "reestimated_top1_pct") for fit in FITS),
        ])  # fmt: skip
    heads = ("Method", "Params", "MACs", *(f"{fit}{norms}" for norms in ("", ", norms again") for fit in FITS))
    return markdown_text(heads, body, _note(rows[0], "Parameters and MACs are ratios to the dense network."))


def markdown_of_norms(rows: Sequence[Row]) -> str:
    """What the batch size of `reestimate_norms_` changes."""
    rows = [row for row in rows if row["what"] == "norms"]
    body = [[str(r["batch"]), f"{r['variance_error']:.1e}", f"{r['reestimated_top1_pct']:.1f}"] for r in rows]
    note = f"{rows[0]['method']} fitted to outputs. With all images in one batch the statistics are exact."
    return markdown_text(("Batch", "largest error of a variance", "Top-1 %"), body, note, left=0)


def markdown_of_folded(rows: Sequence[Row]) -> str:
    """Test accuracy of a network without norms, as fitted and with repaired outputs."""
    rows = [row for row in rows if row["what"] == "folded"]
    body = []
    for method in dict.fromkeys(row["method"] for row in rows):
        found = {row["fit"]: row for row in rows if row["method"] == method}
        body.append([method, *(f"{found[fit][key]:.1f}" for key in ("top1_pct", "repaired_top1_pct") for fit in FITS)])
    heads = ("Method", *(f"{fit}{repaired}" for repaired in ("", ", repaired") for fit in FITS))
    return markdown_text(heads, body, _note(rows[0], "The norms are folded into the convolutions before the fit."))


def _note(row: Row, more: str) -> str:
    return (
        f"Top-1 accuracy in percent on {row['test_images']:,} test images, before any training; the dense network, "
        f"{row['network']}, has {row['dense_top1_pct']:.1f}. {more} One network (n = 1)."
    )
