"""Tables and figures of detectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from leanconv.report.figures import INK, colours_of, label_of, legend, svg
from leanconv.report.tables import NONE, Row, integer, markdown_text, rich_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.table import Table

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR")
COCO_PHOTOS, EPOCHS = 117_266, 24  # photos of COCO 2017's train part that have an object; epochs of the 2x schedule
KINDS = {"bbox": "Boxes", "segm": "Masks"}
NOTE = (
    "AP: COCO's average precision, over overlaps of 0.5 to 0.95. AP50 and AP75: at an overlap of 0.5 and 0.75. APs, APm, APl: of "
    "small (under 32 x 32 pixels), medium and large (over 96 x 96) objects. AR: average recall with 100 detections in a photo. "
    "All in percent; – means that there is no such object."
)
OCCLUSION_NOTE = (
    "r is the share of the instances' area in a photo that another instance also covers; crowds are left out. A row with few "
    "photos is not reliable."
)


def percent(value: float | None) -> str:
    """A value in percent as text, with one decimal.

    >>> percent(37.25), percent(None)
    ('37.2', '–')
    """
    return NONE if value is None else f"{value:.1f}"


def table(runs: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Column heads and cells: one line for a detector's boxes, and one for its masks.

    Args:
        runs: summaries of `leanconv detect train`, or dicts with the same keys "label", "counts" and "val".
    """
    heads = ["Detector", "Parameters", "of the backbone", "of", *METRICS]
    body = []
    for run in runs:
        for kind, metrics in run["val"]["metrics"].items():
            counts = run["counts"]
            line = [run["label"], integer(counts["params"]), integer(counts["backbone_params"]), KINDS[kind]]
            body.append([*line, *(percent(metrics[name]) for name in METRICS)])
    return heads, body


def measures(runs: Sequence[Row]) -> tuple[list[str], list[dict[str, Any]]]:
    """A name and the measured values for each line of `table`; the HTML page plots them."""
    lines = [(run, kind, found) for run in runs for kind, found in run["val"]["metrics"].items()]
    names = [f"{run['label']}, {KINDS[kind].lower()}" for run, kind, _ in lines]
    return names, [{**run["counts"], **{name: found[name] for name in METRICS}} for run, _, found in lines]


def rich_table(runs: Sequence[Row], title: str) -> Table:
    """The table of `table` for a terminal."""
    return rich_of(*table(runs), NOTE, title)


def markdown(runs: Sequence[Row]) -> str:
    """The table of `table` as Markdown."""
    return markdown_text(*table(runs), NOTE)


def markdown_of_slices(runs: Sequence[Row]) -> str:
    """The table of `slices` as Markdown."""
    return markdown_text(*slices(runs), OCCLUSION_NOTE)


def markdown_of_steps(rows: Sequence[Row]) -> str:
    """The time of a training step in seconds, and the days that a full run of the paper would take at this speed."""
    heads = ("Detector", "Backbone", "Parameters", "s a photo", "ratio", "days of 2x COCO here")
    body = []
    for row in rows:
        first = next(r for r in rows if r["detector"] == row["detector"])
        days = row["seconds"] * COCO_PHOTOS * EPOCHS / 86_400
        numbers = [f"{row['seconds']:.2f}", f"{row['seconds'] / first['seconds']:.2f}", f"{days:,.0f}"]
        body.append([row["detector"], row["backbone"], integer(row["params"]), *numbers])
    note = (
        f"s a photo: forward pass, backward pass and update for one photo of 800 x 1333 pixels, in fp32; the median of "
        f"{rows[0]['rounds']} steps. 2x COCO: {EPOCHS} epochs of {COCO_PHOTOS:,} photos."
    )
    return markdown_text(heads, body, note, left=2)


def slices(runs: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Column heads and cells of AP and AP75 by occlusion ratio: first in bins, then for all photos above each bin edge."""
    heads = ["Occlusion", "Photos", "Objects"]
    kinds = [(run, kind) for run in runs for kind in run["val"]["metrics"]]
    for run, kind in kinds:
        heads += [f"{run['label']}, {KINDS[kind].lower()}: {name}" for name in ("AP", "AP75")]
    body = []
    for place, first in enumerate(runs[0]["val"]["slices"]):
        line = [span(first), str(first["photos"]), str(first["objects"])]
        for run, kind in kinds:
            line += [percent(run["val"]["slices"][place]["metrics"][kind][name]) for name in ("AP", "AP75")]
        body.append(line)
    return heads, body


def span(one: Mapping[str, Any]) -> str:
    """The range of the occlusion ratio of one slice, as text.

    >>> span({"low": 0.2, "high": 0.3}), span({"low": 0.2, "high": None})
    ('0.2 <= r < 0.3', 'r >= 0.2')
    """
    return f"r >= {one['low']:g}" if one["high"] is None else f"{one['low']:g} <= r < {one['high']:g}"


def losses(history: Sequence[Row]) -> str:
    """A figure (SVG) of all losses over the epochs; the total loss is the first line."""
    names = [name for name in history[0] if name == "train_loss" or "loss_" in name or name.endswith("ification")]
    names += [name for name in history[0] if name == "bbox_regression"]
    colours = colours_of(names)

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        for name in names:
            axes.plot(
                [epoch["epoch"] for epoch in history], [epoch[name] for epoch in history], color=colours[name],
                linewidth=1.8 if name == "train_loss" else 1.0, label=name.removeprefix("loss_"),
            )  # fmt: skip
        axes.set_xlabel("Epoch")
        axes.set_ylabel("Loss")
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.25, color=INK, linewidth=0.5)
        legend(figure, len(names))

    return svg(draw, "Losses by epoch")


def occlusion_figure(runs: Sequence[Row], kind: str, metric: str = "AP") -> str | None:
    """A figure (SVG) of a metric against the occlusion ratio, with one colour for each detector (TBC, Fig. 7).

    Solid lines show all photos of at least this ratio, dotted lines show bins.

    Args:
        runs: as for `table`.
        kind: "bbox" or "segm".
        metric: "AP" or "AP75".

    Returns:
        SVG; None if no run has bins.
    """
    shown = [run for run in runs if kind in run["val"]["metrics"] and len(run["val"]["slices"]) > 1]
    if not shown:
        return None
    colours = colours_of([run["label"] for run in shown])

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        for run in shown:
            for bins, style in ((False, "o-"), (True, "x:")):
                found = [
                    one
                    for one in sorted(run["val"]["slices"], key=lambda one: one["low"])
                    if (one["high"] is not None) == bins and one["metrics"][kind][metric] is not None
                ]
                axes.plot(
                    [(one["low"] + one["high"]) / 2 if bins else one["low"] for one in found],
                    [one["metrics"][kind][metric] for one in found],
                    style,
                    color=colours[run["label"]],
                    markersize=4,
                    linewidth=1.0,
                    label=f"{label_of(run['label'])}: {'in bins' if bins else 'at least r'}",
                )
        axes.set_xlabel("Occlusion ratio r")
        axes.set_ylabel(f"{metric} of {KINDS[kind].lower()}, %")
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.25, color=INK, linewidth=0.5)
        legend(figure, 2 * len(shown))

    return svg(draw, f"{metric} of {KINDS[kind].lower()} under occlusion")


def backbone_figure(runs: Sequence[Row], kind: str) -> str | None:
    """A figure (SVG) of AP against the backbone's parameters (TBC, Fig. 6); None with fewer than two detectors.

    Args:
        runs: as for `table`.
        kind: "bbox" or "segm".
    """
    shown = [run for run in runs if (run["val"]["metrics"].get(kind) or {}).get("AP") is not None]
    if len(shown) < 2:
        return None
    colours = colours_of([run["label"] for run in shown])

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        for run in shown:
            x, y = run["counts"]["backbone_params"] / 1e6, run["val"]["metrics"][kind]["AP"]
            axes.plot(x, y, "o", color=colours[run["label"]], label=label_of(run["label"]))
        axes.set_xlim(left=0)
        axes.set_xlabel("Parameters of the backbone, millions")
        axes.set_ylabel(f"AP of {KINDS[kind].lower()}, %")
        axes.margins(y=0.2)
        axes.grid(alpha=0.25, color=INK, linewidth=0.5)
        legend(figure, len(shown))

    return svg(draw, f"AP of {KINDS[kind].lower()} against parameters of the backbone")
