"""Names from outside, wherever they are shown."""

from __future__ import annotations

import warnings

import pytest

from leanconv.core.shown import code, literal, markdown, plain, short


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("resnet20", "resnet20"),
        ("日本語 😀 é", "日本語 😀 é"),
        ("two\nlines\tand  more", "two lines and more"),
        ("\x1b[31mred\x00", "\\x1b[31mred\\x00"),
        ("\u202eevil\u2066\u200b", "\\u202eevil\\u2066\\u200b"),
        ("half \ud800", "half \\ud800"),
        ("\U000f0000", "\\U000f0000"),
    ],
)
def test_a_line_without_what_cannot_be_seen(text: str, shown: str) -> None:
    assert plain(text) == shown
    shown.encode()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("tied_block(blocks=2)", "tied_block(blocks=2)"),
        ("<script>&|", "&lt;script>&amp;\\|"),
        ("_a_ **b** `c` ~d~ $e$ [f](g) \\", "\\_a\\_ \\*\\*b\\*\\* \\`c\\` \\~d\\~ \\$e\\$ \\[f\\](g) \\\\"),
        ("# a > b", "\\# a > b"),
    ],
)  # fmt: skip
def test_nothing_that_markdown_reads(text: str, shown: str) -> None:
    assert markdown(text) == shown


def test_code_holds_backticks() -> None:
    assert code("a <b>") == "`a <b>`"
    assert code("a `b` ``c``") == "``` a `b` ``c`` ```"


def test_a_long_name_keeps_its_ends() -> None:
    assert short("x" * 60) == "x" * 60
    found = short("a" + "x" * 100 + "z")
    assert len(found) == 60 and found[0] == "a" and found[-1] == "z" and "…" in found


def test_a_figure_shows_names_as_they_are() -> None:
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure()
    FigureCanvasSVG(figure)
    axes = figure.add_subplot()
    axes.set_title("$\\invalid{$ 日本")
    axes.plot([1, 1000], [1, 1000], label="$x$")
    axes.set_yscale("log")
    axes.legend()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with literal(figure):
            figure.canvas.draw()
    texts = [text.get_text() for text in axes.get_yticklabels()]
    assert any("mathdefault" in text for text in texts)  # powers of ten are formulas still
    assert [text.get_parse_math() for text in axes.get_legend().get_texts()] == [False]
