"""Matplotlib figures that need no display and no global state."""

from __future__ import annotations

import io
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from leanconv.core.atomic import replacing
from leanconv.core.errors import SettingError
from leanconv.core.shown import literal

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def panels(rows: int, columns: int, width: float, height: float) -> tuple[Figure, np.ndarray]:
    """A figure and its axes, an array (rows, columns); `width` and `height` of each axes are in inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(columns * width, rows * height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def panel(width: float, height: float) -> Axes:
    """The axes of a new figure; `width` and `height` are in inches."""
    axes: Axes = panels(1, 1, width, height)[1][0][0]
    return axes


def save_figure(figure: Figure, path: str | os.PathLike[str]) -> Path:
    """Write a figure in the format of the suffix (.svg, .png or .pdf), and return the path.

    The file is complete, or not written at all. Text in SVG files stays text.

    Raises:
        SettingError: the path has another suffix.
    """
    import matplotlib

    path = check_suffix(path)
    with (
        matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "leanconv"}),
        replacing(path) as temporary,
        literal(figure),
    ):
        settings = {"Date": None} if path.suffix == ".svg" else None
        figure.savefig(temporary, format=path.suffix[1:], dpi=150, metadata=settings)
    return path


def check_suffix(path: str | os.PathLike[str]) -> Path:
    """`path` as a Path, if its suffix is a format of figures.

    Raises:
        SettingError: the suffix is not .svg, .png or .pdf.
    """
    path = Path(path).expanduser()
    if path.suffix not in (".svg", ".png", ".pdf"):
        raise SettingError(f"{path} must end in .svg, .png or .pdf")
    return path


def svg_of(figure: Figure) -> str:
    """A figure as one SVG element with a white background, because the page may be dark."""
    out = io.StringIO()
    import matplotlib

    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "leanconv"}), literal(figure):
        figure.savefig(out, format="svg", facecolor="white", metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    return text.replace("<svg ", '<svg role="img" aria-label="figure" ', 1).strip()
