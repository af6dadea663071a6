"""The page and its figures: whole, self-contained, safe."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path

import pytest

from leanconv.core.errors import SettingError
from leanconv.report import explorer, figures, latency_tables, page

from .sample import DENSE, ROWS, histories, row, summary

LOADING = {"src", "href", "xlink:href", "data", "action", "poster", "srcset"}


class Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in LOADING]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_page_loads_nothing() -> None:
    text = page.html(summary(), histories())
    reader = Reader()
    reader.feed(text)
    assert not {"link", "img", "iframe", "object", "base"} & set(reader.tags)
    assert all(link.startswith("#") for link in reader.links)
    assert "@import" not in text
    assert text.count("url(") == text.count("url(#")
    assert "prefers-color-scheme: dark" in text


def test_page_holds_table_sentences_figures_and_facts() -> None:
    reader = Reader()
    reader.feed(page.html(summary(), histories()))
    for wanted in (
        "272,474",
        "105,082",
        "91.20 ± 0.40",
        "worse in measured latency",
        "Epoch",
        "train.lr",
        "a CPU",
        "1, 2",
    ):
        assert wanted in reader.text
    assert reader.tags.count("svg") == 4  # three without a script, and the training curves
    assert "b" not in reader.tags  # a method's name is text, whatever it looks like


def test_page_without_a_finished_run() -> None:
    text = page.html(summary([ROWS[2]]), {})
    assert "No run has finished" in text
    assert "<svg" not in text and "</script><" not in text.replace("</script>\n<", "")


def test_layers_open_on_a_click() -> None:
    heads, line = ("Layer", "Becomes"), ("layer1.0.conv1", "dense: <1x1>")
    reader = Reader()
    reader.feed(page.html(summary(), histories(), [("split(ratio=0.5)", heads, [line])]))
    assert "details" in reader.tags and "Layer by layer" in reader.text and "dense: <1x1>" in reader.text
    assert "details" not in page.html(summary(), histories()).split("</style>")[1]


def test_latency_has_an_axis_for_each_runtime() -> None:
    """One point a network: its best time in each runtime."""

    def timed(network: str, runtime: str, ms: float, best: bool) -> dict[str, object]:
        counts = {"params": 1, "macs": 1, "form": "", "batch": 1, "failed": None}
        return {"network": network, "runtime": runtime, "latency_ms": ms, "best": best, **counts}

    rows = [timed("a", "eager", 9.0, False), timed("a", "openvino", 4.0, True), timed("b", "eager", 7.0, True)]
    shown = explorer.data(latency_tables.across_runtimes(rows), ["a, eager", "a, openvino", "b, eager"], None)
    found = json.loads(str(shown["json"]))
    labels = [measure["label"] for measure in found["measures"]]
    assert labels[-2:] == ["Latency in eager, ms", "Latency in openvino, ms"]
    assert [row["values"][-2:] for row in found["rows"]] == [[None, None], [9.0, 4.0], [7.0, None]]


def test_write(tmp_path: Path) -> None:
    path = page.write(tmp_path / "new", summary(), histories())
    assert path.read_text() == page.html(summary(), histories())
    markdown = (tmp_path / "new" / "report.md").read_text()
    assert markdown.startswith("# resnet20 on digits\n")
    assert "- split(ratio=0.5): better in parameters (0.39 of dense)" in markdown


@pytest.mark.parametrize("x", figures.AXES)
def test_figure_is_one_svg_in_the_pages_colour(x: str) -> None:
    svg = figures.accuracy_against(ROWS, x)
    assert svg is not None
    root = ET.fromstring(svg)
    assert root.tag.endswith("svg")
    text = "".join(root.itertext())
    assert "dense" in text
    assert "split(ratio=0.5)" in text
    assert figures.INK not in svg
    assert "currentColor" in svg
    assert svg == figures.accuracy_against(ROWS, x)


def test_figures_of_nothing() -> None:
    assert figures.accuracy_against([ROWS[2]], "params") is None
    assert figures.training_curves({"dense": [[]]}) is None
    with pytest.raises(SettingError, match="must be one of params, macs, latency_ms"):
        figures.accuracy_against([DENSE], "flops")


def test_curves_fall_back_to_train() -> None:
    without = {"dense": [[{"epoch": 1, "train_top1_pct": 40.0}, {"epoch": 2, "train_top1_pct": 50.0}]]}
    svg = figures.training_curves(without)
    assert svg is not None
    assert "Train top-1 %" in svg
    assert "Validation top-1 %" in (figures.training_curves(histories()) or "")


NAMES = (
    "$\\invalid{$", "a$b$_^\\frac{1}{2}", "<script>alert(1)</script>", "x|y\nz`code`", "[red]bold[/red]", "\u202eevil",
    "n" * 400, "日本語 \U0001f600", "_hidden", "&amp;", "![x](http://e)", "\x00\x1b[31mred", "half \ud800", "\\",
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_any_name_is_shown_as_text(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In the page, its figures, the Markdown and the terminal: nothing is read as a formula, an element or a code."""
    from leanconv.cli.output import show
    from leanconv.core.shown import plain
    from leanconv.report import tables

    rows = [DENSE, row(name, (90.0, 90.5))]
    told = summary(rows)
    told["settings"] |= {"target": name, "data": {"name": name}, "classes": [name]}
    epochs = [{"epoch": epoch, "train_top1_pct": 40.0, "val_top1_pct": 50.0} for epoch in (1, 2)]
    page.write(tmp_path, told, {"dense": [epochs], name: [epochs]}, [(name, (name,), [[name]])])
    html, markdown = ((tmp_path / f"report.{kind}").read_text(encoding="utf-8") for kind in ("html", "md"))
    assert html.count("<svg") == 4
    for text in (html, markdown):
        assert not {"\x00", "\x1b", "\u202e"} & set(text)
        assert "<script>alert" not in text
    table = next(line for line in markdown.splitlines() if "90.25" in line)
    assert table.replace("\\|", "").count("|") == 13
    if name.startswith("_"):
        assert html.count(f"> {name}<") + html.count(f">{name}<") >= 4  # legends leave out what begins so
    show(tables.rich_table(rows, name), f"{name}: better")
    out = capsys.readouterr().out
    assert plain(name)[:40] in out and not {"\x00", "\x1b", "\u202e"} & set(out)


def test_a_long_line_keeps_its_extremes() -> None:
    values = [50 + (i % 7) / 10 for i in range(100_000)]
    values[31_415], values[77_777] = 99.0, 1.0
    kept = figures.thinned(values)
    assert len(kept) <= figures.MOST_POINTS and kept == sorted(set(kept))
    assert {0, 31_415, 77_777, 99_999} <= {*kept}
    history = [{"epoch": i + 1, "val_top1_pct": value} for i, value in enumerate(values)]
    drawn = figures.training_curves({"dense": [history]})
    assert drawn is not None and len(drawn) < 200_000
