"""The result of a comparison: rows, networks and histories, as a table, a page and files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from leanconv.core.atomic import write_json
from leanconv.core.errors import LeanconvError
from leanconv.core.machine import provenance
from leanconv.core.method import DENSE
from leanconv.experiment.events import LeftOut, Measuring, Tell
from leanconv.experiment.job import Job
from leanconv.experiment.rows import MethodRuns, make_rows
from leanconv.report.result import Result
from leanconv.report.tables import Row
from leanconv.report.text_table import TextTable
from leanconv.timing.latency import measure_latency
from leanconv.train.once import BUILT, CLASS_NAMES, CODE, SUMMARY_FILE

if TYPE_CHECKING:
    from leanconv.report.page import Details, Page
    from leanconv.timing.latency import Latency


@dataclass
class Comparison(Result):
    """The result of a comparison; a notebook shows it as a table.

    Args:
        summary: as in summary.json: settings, machine, versions, and one row a method.
        folder: the folder of the runs; None if they were temporary.
        networks: the trained network of each row, by label; of several seeds, the network of the lowest.
        histories: the metrics of each epoch by label, with one list for each seed.
        details: the layers of the lean networks, as tables of the page.
    """

    summary: dict[str, Any]
    folder: Path | None
    networks: dict[str, nn.Module]
    histories: dict[str, list[list[dict[str, Any]]]]
    details: Sequence[Details] = ()

    @property
    def rows(self) -> Sequence[Row]:
        return list(self.summary["rows"])

    @property
    def title(self) -> str:
        return f"{self.summary['settings']['target']} on {self.summary['settings']['data']['name']}"

    def sentences(self) -> list[str]:
        """Sentences: what became better and what became worse."""
        from leanconv.report import verdict

        return verdict.sentences(self.rows)

    def table(self) -> TextTable:
        from leanconv.report import tables

        heads, cells = tables.cells(self.rows)
        return TextTable(heads, cells, note=tables.notes(self.rows), title=self.title)

    def page(self) -> Page:
        from leanconv.report import page

        return page.of_compare(self.summary, self.histories, self.details)

    def to_json(self) -> dict[str, Any]:
        """The values of summary.json."""
        return self.summary

    def write(self, folder: Path) -> Path:
        """Write summary.json, report.md and report.html; returns the page's path."""
        from leanconv.report import page

        write_json(folder / SUMMARY_FILE, self.summary)
        return page.write(folder, self.summary, self.histories, self.details)


def compared(
    jobs: Sequence[Job],
    trained: Mapping[str, MethodRuns],
    latency: Mapping[str, Any] | None,
    command: str,
    tell: Tell,
) -> Comparison:
    """Measure the trained networks together, and return the comparison.

    Args:
        latency: the settings of `measure_latency`; None does not measure.
        command: the command line that the report shows.
    """
    networks = _networks(trained, tell)
    measured = {} if latency is None else _measure(networks, jobs[0].input_size, latency, tell)
    summary = _summary(jobs, make_rows(trained, measured), latency, command)
    histories = {label: [run.history for run in runs.done.values()] for label, runs in trained.items()}
    return Comparison(summary, None, networks, histories, _details(networks))


def _networks(trained: Mapping[str, MethodRuns], tell: Tell) -> dict[str, nn.Module]:
    """The trained network of each method; a network that cannot be loaded is reported and left out."""
    found = {}
    for label, runs in trained.items():
        try:
            if runs.done:
                found[label] = runs.network
        except LeanconvError as error:  # its accuracy is known without the network
            tell(LeftOut(label, "its latency is not measured and its layers are not shown", str(error)))
    return found


def _measure(
    networks: Mapping[str, nn.Module], input_size: tuple[int, int, int], options: Mapping[str, Any], tell: Tell
) -> dict[str, Latency]:
    """The inference latency of the networks, interleaved; ratios are to dense, else to the first."""
    if not networks:
        return {}
    tell(Measuring(len(networks)))
    ordered = {label: networks[label] for label in sorted(networks, key=lambda label: label != DENSE)}
    return {latency.name: latency for latency in measure_latency(ordered, input_size, **options)}


def _details(networks: Mapping[str, nn.Module]) -> list[Details]:
    from leanconv.experiment.report import layers

    return [table for label, network in networks.items() for table in layers(label, network)]


def _summary(jobs: Sequence[Job], rows: list[Row], latency: Mapping[str, Any] | None, command: str) -> dict[str, Any]:
    """The results as ``results/schema.json`` wants them."""
    job = jobs[0]
    identity = job.identity()
    shared = {name: value for name, value in identity.items() if name not in ("method", "seed", "network", BUILT, CODE)}
    shared["data"] = {name: value for name, value in identity["data"].items() if name != CLASS_NAMES}
    shared["target"] = ", ".join(dict.fromkeys(job.target for job in jobs))
    measured = {} if latency is None else {"latency": {"dtype": "float32", **latency}}
    return {
        **provenance(command),
        "kind": "compare",
        "settings": {**shared, "execution": job.execution(), **measured},
        "n": max((row["n"] for row in rows), default=0),
        "seeds": sorted({seed for row in rows for seed in row["seeds"]}),
        "rows": rows,
    }
