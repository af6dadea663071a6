"""A run as a table and as a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from leanconv.core.machine import provenance
from leanconv.experiment.job import Job
from leanconv.report.conversion_tables import HEADS as LAYER_HEADS
from leanconv.report.conversion_tables import layer_lines
from leanconv.report.page import Details, Page, table_page
from leanconv.report.tables import duration, integer, macs, size

HEADS = ("Measure", "Value")


def lines(summary: Mapping[str, Any]) -> list[list[str]]:
    """The summary of a run as table rows under `HEADS`."""
    counts, test, trained = summary["counts"], summary["test"], summary["train"]
    return [
        ["Test top-1", f"{test['top1_pct']:.2f} %"],
        ["Test top-5", f"{test['top5_pct']:.2f} %"],
        ["Test loss", f"{test['loss']:.4f}"],
        ["Test images", integer(test["n"])],
        ["Parameters, each shared tensor once", integer(counts["params"])],
        ["MACs for one image", macs(counts["macs"])],
        ["Weights", size(counts["weight_bytes"])],
        ["Epochs", str(trained["epochs"])],
        ["Training", duration(trained["train_seconds"])],
        ["Images a second", f"{trained['images_per_s']:,.0f}"],
    ]


def run_page(
    job: Job, summary: Mapping[str, Any], history: Sequence[Mapping[str, Any]], network: nn.Module, command: str
) -> Page:
    """A run as a page: the result, the training curves, and the settings that repeat the run."""
    from leanconv.report import figures

    curves = figures.training_curves({summary["method"]: [history]})
    facts = provenance(command) | {"settings": job.identity()}
    return table_page(
        f"{job.target}, {summary['method']}, on {job.data.name}",
        f"leanconv train, {facts['created']}, seed {summary['seed']}",
        HEADS,
        lines(summary),
        sections=[("Training", [curves] if curves else [])],
        details=layers(job.label, network),
        summary=facts,
    )


def layers(label: str, network: nn.Module) -> list[Details]:
    """The convolutions of a lean network as a table of a page; an empty list for a dense network."""
    found = layer_lines(network)
    return [(label, LAYER_HEADS, found)] if found else []
