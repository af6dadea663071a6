"""One self-contained HTML page of a comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from leanconv.core.atomic import write_text
from leanconv.report import explorer, figures, tables, verdict

TEMPLATES = Path(__file__).parent / "templates"


def html(summary: Mapping[str, Any], histories: Mapping[str, Sequence[Sequence[Mapping[str, Any]]]]) -> str:
    """The page, with its figures inline; it loads nothing.

    Args:
        summary: what `leanconv compare` writes to ``summary.json``.
        histories: the metrics of each epoch, by method, one sequence a seed.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    rows = summary["rows"]
    drawn = [figures.accuracy_against(rows, x) for x in figures.AXES]
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2").render(
        summary=summary,
        columns=tables.columns(rows),
        explorer=explorer.data(rows),
        notes=tables.notes(rows),
        sentences=verdict.sentences(rows),
        scatters=[Markup(svg) for svg in drawn if svg],
        figures=[Markup(svg) for svg in [figures.training_curves(histories)] if svg],
        facts=[(title, _facts(summary[key])) for title, key in FACTS],
    )


FACTS = (("Settings", "settings"), ("Machine", "machine"), ("Versions", "versions"))


def _facts(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested values as (dotted name, text)."""
    facts: list[tuple[str, str]] = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            facts += _facts(value, f"{prefix}{name}.")
        else:
            text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
            facts.append((prefix + name, text))
    return facts


def markdown(summary: Mapping[str, Any]) -> str:
    """The same in Markdown, without the figures."""
    rows = summary["rows"]
    said = "".join(f"- {sentence}\n" for sentence in verdict.sentences(rows))
    seeds = ", ".join(map(str, summary["seeds"]))
    facts = "".join(
        f"\n## {title}\n\n" + "".join(f"- {name}: {value}\n" for name, value in _facts(summary[key]))
        for title, key in FACTS
    )
    title = f"# {summary['settings']['target']} on {summary['settings']['data']['name']}\n"
    return f"{title}\n{tables.markdown(rows)}\n{said}\nSeeds {seeds}. `{summary['command']}`, {summary['created']}.\n{facts}"


def write(folder: Path, summary: Mapping[str, Any], histories: Mapping[str, Any]) -> Path:
    """Write ``report.html`` and ``report.md`` into `folder`; returns the page's path."""
    write_text(folder / "report.md", markdown(summary))
    write_text(folder / "report.html", html(summary, histories))
    return folder / "report.html"
