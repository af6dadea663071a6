"""``leanconv analyse``: what a network does, as a table, a figure and arrays."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from leanconv.cli.options import DataRoot, Download, Json, MaxPixels, OnBad, Pretrained, Report, Seed, TestSplit
from leanconv.cli.output import command_line, say, show, show_json, write_page

What = Literal[
    "filters", "matrices", "weights", "bases", "gradients", "blending", "pruning", "cam", "maps", "spectrum", "tradeoff"
]


def analyse(
    targets: Annotated[
        list[str], typer.Argument(metavar="TARGET...", help="Networks by name, or folders; several are compared.")
    ],
    what: Annotated[
        What,
        typer.Option(
            "--what",
            help="filters: how alike what excites them is (matrices: each pair); weights: the same of their weights; "
            "bases: of shared bases and coefficients; gradients: of a run with --record-gradients; blending: its extremes; "
            "pruning: accuracy without the smallest; cam: Grad-CAM; maps: near-duplicates; spectrum: singular values; "
            "tradeoff: error against parameters and MACs, of a folder that compare wrote.",
        ),
    ] = "filters",
    layer: Annotated[
        list[str] | None, typer.Option("--layer", metavar="NAME", help="Which layer; may be repeated. Default: some.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option("--data", metavar="DATA", help="digits, cifar10, cifar100, or a folder; its test part."),
    ] = None,
    data_root: DataRoot = None,
    download: Download = False,
    on_bad: OnBad = "refuse",
    max_pixels: MaxPixels = None,
    test_split: TestSplit = None,
    photos: Annotated[
        Path | None, typer.Option("--photos", metavar="DIR", help="Images of your own in place of --data.")
    ] = None,
    images: Annotated[int, typer.Option("--images", min=1, help="How many images to look at.")] = 8,
    classes: Annotated[
        list[int] | None,
        typer.Option("--class", min=0, help="cam: the class, once or for each image; default: the likeliest."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE", help="Write the figure: .svg, .png or .pdf.")
    ] = None,
    report: Report = None,
    pretrained: Pretrained = False,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Look into TARGET: a table here, the figure with --out, the arrays with --json."""
    from leanconv.cli.images import open_images
    from leanconv.core.errors import SettingError
    from leanconv.files.target import is_saved, open_target
    from leanconv.report.tables import rich_of

    if out is not None and out.suffix not in (".svg", ".png", ".pdf"):
        raise SettingError(f"--out {out} must end in .svg, .png or .pdf")
    if what in ("gradients", "tradeoff"):
        found, figure, heads, rows = (_gradients if what == "gradients" else _tradeoff)(targets)
    else:
        from leanconv.cli.analyses import KINDS, SEES_IMAGES, Asked, check_channels

        source = None
        if data is not None and photos is None:
            run = next((target for target in targets if is_saved(target)), None)
            source = open_images(data, data_root, download, on_bad, max_pixels, test_split, run=run)
        settings = {} if source is None else {"num_classes": len(source.classes), "in_chans": source.channels}
        networks = {
            label: open_target(target, pretrained=pretrained, **({} if is_saved(target) else settings)).eval()
            for label, target in zip(_labels(targets), targets, strict=True)
        }
        if what in SEES_IMAGES and source is None and photos is None:
            raise SettingError(f"--what {what} looks at images: give --data, or --photos with a folder of them")
        if what in SEES_IMAGES and source is not None:
            for model in networks.values():
                check_channels(model, source)
        if what == "pruning" and photos is not None:
            raise SettingError("--what pruning needs labelled images: give --data, without --photos")
        asked = Asked(networks, tuple(layer or ()), source, photos, images, tuple(classes or ()), seed)
        drawn = KINDS[what](asked)
        found, figure, heads, rows = drawn.found, drawn.figure, drawn.heads, drawn.rows
    if out is not None:
        from leanconv.analyse.figure import save_figure

        say(f"wrote {save_figure(figure, out)}")
    if report is not None:
        from leanconv.analyse.figure import svg_of
        from leanconv.core.machine import provenance
        from leanconv.report.page import table_page

        facts = provenance(command_line()) | {"settings": {"images": images, "seed": seed}}
        subtitle = f"leanconv analyse --what {what}, {facts['created']}"
        sections = [(what.capitalize(), [svg_of(figure)])]
        title = " and ".join(_labels(targets))
        write_page(table_page(title, subtitle, heads, rows, left=2, sections=sections, summary=facts), report)
    if as_json:
        show_json({"what": what, "networks": found})
        return
    show(rich_of(heads, rows, "", left=2))


def _gradients(folders: list[str]) -> tuple[object, ...]:
    from leanconv.analyse.gradients import plot_gradients, read_gradients
    from leanconv.report.tables import NONE

    runs = {label: read_gradients(folder) for label, folder in zip(_labels(folders), folders, strict=True)}
    found = {folder: flow.to_json() for folder, flow in runs.items()}
    rows = [
        [folder, tensor["name"], *(NONE if tensor[key] is None else f"{tensor[key]:.3g}" for key in ("max", "mean"))]
        for folder, flow in found.items()
        for tensor in flow["tensors"]
    ]
    return found, plot_gradients(runs), ("Run", "Shared weight", "max |gradient|", "mean |gradient|"), rows


def _tradeoff(paths: list[str]) -> tuple[object, ...]:
    from leanconv.analyse.tradeoff import read_tradeoff
    from leanconv.core.errors import SettingError
    from leanconv.report.tables import integer, macs, spread

    if len(paths) > 1:
        raise SettingError(
            f"tradeoff draws one comparison, and {len(paths)} are given; let compare write them into one"
        )
    found = read_tradeoff(paths[0])
    rows = [
        [p.name, integer(p.params), macs(p.macs), f"{p.factor:.2f}", spread(p.error_pct, p.error_pct_std), str(p.n)]
        for p in found.points
    ]
    heads = ("Network", "Parameters", "MACs", "times fewer", "Test error %", "n")
    return found.to_json(), found.plot(), heads, rows


def _labels(targets: list[str]) -> list[str]:
    """What tells the targets apart: of folders, the parts of their paths that differ.

    Raises:
        SettingError: one is given twice.
    """
    from leanconv.core.errors import SettingError

    if len(set(targets)) < len(targets):
        raise SettingError(f"a network is given twice among {', '.join(targets)}; leave one out")
    parts = [Path(target).parts if Path(target).is_dir() else (target,) for target in targets]
    if len(parts) == 1:
        return [parts[0][-1]]
    shortest = min(map(len, parts))
    front = next((i for i in range(shortest) if len({p[i] for p in parts}) > 1), 0)
    back = next((i for i in range(shortest) if len({p[-1 - i] for p in parts}) > 1), 0)
    return ["/".join(p[front : len(p) - back] or p) for p in parts]
