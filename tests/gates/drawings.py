"""The figures of docs/concepts.md, drawn from plans and counts."""

from __future__ import annotations

from html import escape

import leanconv as lc
from leanconv.core.meta import built_on_meta

NETWORK = "resnet8"
METHODS = ("tied_block", "split", "shared_basis", "depth_shared", "low_rank")
COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#dd8452", "#009988", "#bb5566", "#555599")
GREY, INK = "#bbbbbb", "#222222"


def figures() -> dict[str, str]:
    """SVG texts by the name of the figure."""
    return {"concept-plan": plan_figure(), "concept-counts": counts_figure()}


def plan_figure() -> str:
    """The layers of the network in their order; layers of one group have one colour."""
    model = built_on_meta(lambda: lc.create_model(NETWORK))
    parts = []
    for row, name in enumerate(("split", "depth_shared")):
        plan = lc.plan(model, lc.find_method(name)(), exclude="conv1")
        groups = {site.name: index for index, group in enumerate(plan.groups) for site in group.sites}
        names = [*groups, *(skipped.site.name for skipped in plan.kept)]
        layers = [layer for layer, module in model.named_modules() if layer in names]
        top = 40 + 120 * row
        number = f"{len(plan.groups)} group{'s' * (len(plan.groups) != 1)}"
        parts.append(text(10, top, f"{name}: {number}, {plan.params():,} parameters", 15))
        for column, layer in enumerate(layers):
            colour = GREY if layer not in groups else COLOURS[groups[layer] % len(COLOURS)]
            parts.append(box(10 + 74 * column, top + 12, 66, 34, colour))
            parts.append(text(10 + 74 * column, top + 62 + 12 * (column % 2), layer.removesuffix(".weight"), 10))
        width = 60 + 74 * len(layers)
    return svg(width, 270, parts, f"Layers of {NETWORK} under two methods")


def counts_figure() -> str:
    """Parameters and MACs of the network under each method, as bars; dense is 1."""
    model = built_on_meta(lambda: lc.create_model(NETWORK))
    dense = lc.count(model)
    parts = [text(150, 30, "parameters", 13, COLOURS[0]), text(260, 30, "MACs", 13, COLOURS[1])]
    for row, name in enumerate(METHODS):
        lean = lc.count(lc.convert(model, lc.plan(model, lc.find_method(name)(), exclude="conv1"), "fresh"))
        top = 50 + 48 * row
        parts.append(text(10, top + 20, name, 13))
        for line, (part, whole) in enumerate(((lean.params, dense.params), (lean.macs, dense.macs))):
            share = part / whole
            parts.append(box(150, top + 17 * line, round(400 * share, 1), 14, COLOURS[line]))
            parts.append(text(158 + round(400 * share, 1), top + 12 + 17 * line, f"{share:.2f}", 12))
    return svg(640, 60 + 48 * len(METHODS), parts, f"Parameters and MACs of {NETWORK} under each method, dense is 1")


def box(x: float, y: float, width: float, height: float, colour: str) -> str:
    return f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="3" fill="{colour}"/>'


def text(x: float, y: float, words: str, size: int, colour: str = INK) -> str:
    return f'<text x="{x}" y="{y}" font-size="{size}" fill="{colour}">{escape(words)}</text>'


def svg(width: float, height: float, parts: list[str], title: str) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" role="img">'
    )
    back = f'<rect width="{width}" height="{height}" rx="6" fill="#ffffff"/>'
    return "\n".join([head, f"<title>{escape(title)}</title>", back, *parts, "</svg>\n"])
