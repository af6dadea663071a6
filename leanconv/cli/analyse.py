"""``leanconv analyse``: an analysis of networks, as a table, a figure and arrays."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from leanconv.analyse.kinds import KINDS
from leanconv.cli import options
from leanconv.cli.options import DataRoot, Download, Json, MaxPixels, OnBad, Pretrained, Report, Seed, TestSplit
from leanconv.cli.output import command_line, present, say

if TYPE_CHECKING:
    from torch import nn

    from leanconv.data import ImageData

    What = str
else:
    What = Literal[tuple(KINDS)]


def analyse(
    targets: Annotated[
        list[str], typer.Argument(metavar="TARGET...", help="Networks by name, or folders; several are compared.")
    ],
    what: Annotated[
        What, typer.Option("--what", help="; ".join(f"{kind.name}: {kind.says}" for kind in KINDS.values()) + ".")
    ] = "filters",
    layer: Annotated[
        list[str] | None,
        typer.Option("--layer", metavar="NAME", help="A layer; may be repeated. Default: the analysis chooses."),
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
    images: Annotated[int, typer.Option("--images", min=1, help="The number of images.")] = 8,
    classes: Annotated[
        list[int] | None,
        typer.Option("--class", min=0, help="cam: the class, once or for each image; default: the likeliest."),
    ] = None,
    average: options.Average = "patterns",
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE", help="Write the figure: .svg, .png or .pdf.")
    ] = None,
    report: Report = None,
    pretrained: Pretrained = False,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Analyse TARGET: print a table, write the figure with --out, print the arrays with --json."""
    from leanconv.analyse.figure import check_suffix
    from leanconv.analyse.looking import FOLDERS, look
    from leanconv.cli.images import open_images

    if out is not None:
        check_suffix(out)
    source: ImageData | Path | None = photos
    if data is not None and photos is None:
        source = open_images(data, data_root, download, on_bad, max_pixels, test_split, networks=targets)
    subjects: Any = targets if KINDS[what].of in FOLDERS else _networks(targets, pretrained, source, seed)
    found = look(
        what, subjects, source, layers=layer or (), classes=classes or (), count=images, seed=seed, average=average,
        command=command_line(),
    )  # fmt: skip
    if out is not None:
        say(f"wrote {found.save(out)}")
    present(found, report, as_json)


def _networks(targets: list[str], pretrained: bool, source: ImageData | Path | None, seed: int) -> dict[str, nn.Module]:
    """The networks by label; those by name are built for the classes and channels of the data, each from the seed."""
    import torch

    from leanconv.analyse.looking import labels_of
    from leanconv.core.modes import in_eval
    from leanconv.files.target import is_saved, open_target

    settings: dict[str, Any] = {}
    if source is not None and not isinstance(source, Path):
        settings = {"num_classes": len(source.classes), "in_chans": source.channels}
    networks = {}
    for label, target in zip(labels_of(targets), targets, strict=True):
        torch.manual_seed(seed)
        given = {} if is_saved(target) else settings
        networks[label] = in_eval(open_target(target, pretrained=pretrained, **given))
    return networks
