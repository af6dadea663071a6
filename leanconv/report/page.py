"""One self-contained HTML page: a table that can be sorted and filtered, a plot of any two measures, figures, and settings."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from leanconv.core.atomic import write_text
from leanconv.core.shown import code, plain
from leanconv.core.shown import markdown as escaped
from leanconv.report import explorer, figures, latency_tables, tables, verdict
from leanconv.report.tables import Row
from leanconv.train.config import TrainConfig

TEMPLATES = Path(__file__).parent / "templates"
FACTS = ("settings", "machine", "versions")


Details = tuple[str, Sequence[str], Sequence[Sequence[str]]]
Facts = tuple[str, Sequence[tuple[str, str]], Sequence[tuple[str, str]]]


@dataclass(frozen=True)
class Page:
    """The content of a page.

    Args:
        title, subtitle: at the top.
        heads, cells: the column heads and the texts of the table. The first `left` columns are aligned to the left.
        values: the value by which each cell is sorted; None for a missing value.
        notes: the text below the table.
        names: one for each row, for the points of the plot.
        reference: the index of the row that ratios compare with; None for none.
        rows: the plot reads its measures from them; () leaves the plot out.
        sentences: a verdict for each row.
        scatters: figures (SVG) beside the plot.
        sections: (title, SVGs) of further figures.
        details: (title, column heads, lines) of tables that open on a click.
        facts: (title, [(name, text)], folded) of settings, machine and versions; `folded` are settings with default values.
        command: the command line that made the results.
    """

    title: str
    subtitle: str
    heads: Sequence[str]
    cells: Sequence[Sequence[str]]
    values: Sequence[Sequence[Any]]
    left: int = 1
    notes: str = ""
    names: Sequence[str] = ()
    reference: int | None = None
    rows: Sequence[Row] = ()
    sentences: Sequence[str] = ()
    scatters: Sequence[str] = ()
    sections: Sequence[tuple[str, Sequence[str]]] = ()
    details: Sequence[Details] = ()
    facts: Sequence[Facts] = field(default=())
    command: str = ""

    @property
    def high(self) -> set[int]:
        """The columns in which a higher value is better; the first click sorts them downwards."""
        return {index for index, head in enumerate(self.heads) if re.search(r"%|\bAP|accuracy", head)}

    def html(self) -> str:
        """The page as HTML text. The page loads no other files."""
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
        from markupsafe import Markup

        environment = Environment(
            loader=FileSystemLoader(TEMPLATES),
            autoescape=True,
            undefined=StrictUndefined,
            finalize=lambda value: plain(value) if type(value) is str else value,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        return environment.get_template("report.html.j2").render(
            page=self,
            lines=[
                list(zip(texts, values, strict=True)) for texts, values in zip(self.cells, self.values, strict=True)
            ],
            explorer=explorer.data(self.rows, self.names, self.reference),
            scatters=[Markup(svg) for svg in self.scatters],
            sections=[(title, [Markup(svg) for svg in drawn]) for title, drawn in self.sections],
        )


def of_compare(
    summary: Mapping[str, Any],
    histories: Mapping[str, Sequence[Sequence[Mapping[str, Any]]]],
    details: Sequence[Details] = (),
) -> Page:
    """The page of a comparison, or of one run.

    Args:
        summary: the content of ``summary.json`` from `leanconv compare`.
        histories: for each method, one sequence of epoch metrics for each seed.
        details: tables of the networks' layers, see `Page`.
    """
    rows = summary["rows"]
    columns = tables.columns(rows)
    curves = figures.training_curves(histories)
    return Page(
        title=f"{summary['settings']['target']} on {summary['settings']['data']['name']}",
        subtitle=f"leanconv compare, {summary['created']}, seeds {', '.join(map(str, summary['seeds']))}",
        heads=[column.alone or column.head for column in columns],
        cells=[[column.cell(row) for column in columns] for row in rows],
        values=[[row.get(column.key) for column in columns] for row in rows],
        notes=tables.notes(rows),
        names=[row["method"] for row in rows],
        reference=next((i for i, row in enumerate(rows) if row["method"] == row.get("ratios_to")), None),
        rows=rows,
        sentences=verdict.sentences(rows),
        scatters=[svg for x in figures.AXES if (svg := figures.accuracy_against(rows, x))],
        sections=[("Training", [curves] if curves else [])],
        details=details,
        facts=facts(summary),
        command=summary["command"],
    )


def of_latency(summary: Mapping[str, Any]) -> Page:
    """The page of a latency measurement.

    Args:
        summary: the JSON output of `leanconv bench`.
    """
    rows = summary["rows"]
    numbers = ("batch", "network", "runtime", "form", "params", "macs", "macs", "latency_ms", "ratio")
    names = [f"{row['network']}, {row['runtime']}, {row['form']}, batch {row['batch']}" for row in rows]
    first = next((i for i, row in enumerate(rows) if row["best"]), None)
    return Page(
        title="Latency",
        subtitle=f"leanconv bench, {summary['created']}",
        heads=latency_tables.HEADS,
        cells=latency_tables.texts(rows),
        values=[[row.get(name) for name in numbers] for row in rows],
        left=latency_tables.LEFT,
        notes=latency_tables.NOTE,
        names=names,
        reference=first,
        rows=latency_tables.across_runtimes(rows),
        sentences=latency_tables.sentences(rows),
        facts=facts(summary),
        command=summary["command"],
    )


def table_page(
    title: str,
    subtitle: str,
    heads: Sequence[str],
    cells: Sequence[Sequence[str]],
    *,
    notes: str = "",
    left: int = 1,
    sections: Sequence[tuple[str, Sequence[str]]] = (),
    details: Sequence[Details] = (),
    names: Sequence[str] = (),
    rows: Sequence[Row] = (),
    summary: Mapping[str, Any] | None = None,
    sentences: Sequence[str] = (),
    usual: Mapping[str, Any] = {},
) -> Page:
    """A page with one table of texts, and figures. Each cell is sorted by the number at its start.

    >>> page = table_page("Sizes", "two files", ["File", "Size"], [["a", "1.5 kB"], ["b", "2 MB"]])
    >>> page.values
    [['a', 1500.0], ['b', 2000000.0]]

    Args:
        title, subtitle, heads, cells, notes, left, sections, details, names, rows, sentences: see `Page`.
        summary: a dict from which settings, machine, versions and command are read.
        usual: as for `facts`.
    """
    values = [[tables.leading_number(text) for text in line] for line in cells]
    said: Mapping[str, Any] = summary or {}
    return Page(
        title,
        subtitle,
        heads,
        cells,
        values,
        left,
        notes,
        names=names,
        rows=rows,
        sentences=sentences,
        sections=sections,
        details=details,
        facts=facts(said, usual),
        command=said.get("command", ""),
    )


def facts(summary: Mapping[str, Any], usual: Mapping[str, Any] = {}) -> list[Facts]:
    """The settings, the machine and the versions in a summary, for `Page`; missing ones are left out.

    Args:
        summary: of any verb.
        usual: default values of settings besides those of the training; settings that have them are folded.
    """
    plain_run = dict(_facts({"train": TrainConfig().to_json(), **usual}))
    found: list[Facts] = []
    for key in FACTS:
        if summary.get(key):
            values = _facts(summary[key])
            folded = [(name, text) for name, text in values if plain_run.get(name) == text]
            found.append((key.capitalize(), [value for value in values if value not in folded], folded))
    return found


def _facts(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested values as (dotted name, text)."""
    found: list[tuple[str, str]] = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            found += _facts(value, f"{prefix}{name}.")
        else:
            text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
            found.append((prefix + name, text))
    return found


def html(summary: Mapping[str, Any], histories: Mapping[str, Any], details: Sequence[Details] = ()) -> str:
    """The page of a comparison as HTML text; arguments as for `of_compare`."""
    return of_compare(summary, histories, details).html()


def markdown(summary: Mapping[str, Any]) -> str:
    """The report of a comparison as Markdown, without figures; `summary` as for `of_compare`."""
    rows = summary["rows"]
    said = "".join(f"- {escaped(sentence)}\n" for sentence in verdict.sentences(rows))
    seeds = ", ".join(map(str, summary["seeds"]))
    more = "".join(
        f"\n## {title}\n\n" + "".join(f"- {escaped(name)}: {escaped(value)}\n" for name, value in [*values, *folded])
        for title, values, folded in facts(summary)
    )
    title = f"# {escaped(summary['settings']['target'])} on {escaped(summary['settings']['data']['name'])}\n"
    return f"{title}\n{tables.markdown(rows)}\n{said}\nSeeds {seeds}. {code(summary['command'])}, {summary['created']}.\n{more}"


def write(
    folder: Path, summary: Mapping[str, Any], histories: Mapping[str, Any], details: Sequence[Details] = ()
) -> Path:
    """Write ``report.html`` and ``report.md`` into `folder`, and return the path of ``report.html``.

    Args:
        folder: an existing folder.
        summary, histories, details: see `of_compare`.
    """
    write_text(folder / "report.md", markdown(summary))
    write_text(folder / "report.html", html(summary, histories, details))
    return folder / "report.html"
