"""Arguments and flags that several verbs share."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from leanconv.core.errors import SettingError

if TYPE_CHECKING:
    from leanconv.core.meta import InputSize

Target = Annotated[
    str,
    typer.Argument(
        metavar="TARGET",
        help="A network: resnet20, basis_resnet56(bases=2), timm/NAME, torchvision/NAME, or a folder that leanconv saved.",
    ),
]
Targets = Annotated[
    list[str],
    typer.Argument(
        metavar="TARGET...",
        help="One network or several: resnet20, basis_resnet56(bases=2), timm/NAME, torchvision/NAME, or a folder.",
    ),
]
Folder = Annotated[str, typer.Argument(metavar="DIR", help="A folder that leanconv saved a network in.")]
Methods = Annotated[
    str | None,
    typer.Option("--methods", help='By comma: "dense,tied_block(blocks=2),narrower(macs=0.5)". Default: dense.'),
]
Trained = Annotated[
    str,
    typer.Argument(
        metavar="TARGET", help="A folder that leanconv saved a network in, or a network by name with --weights."
    ),
]
Method = Annotated[str, typer.Option("--method", "-m", help='How to convert: "tied_block(blocks=2)", or dense.')]
Macs = Annotated[
    float | None, typer.Option("--macs", help="Remove channels until at most this share of the MACs remains: 0.5.")
]
Criterion = Annotated[
    str,
    typer.Option(
        "--criterion",
        help="Channels to remove: of least magnitude, taylor, activation or reconstruction; at random; or all but the first.",
    ),
]
Allocate = Annotated[
    Literal["uniform", "scores"] | None,
    typer.Option(
        "--allocate",
        help="Keep the same share of channels in each layer, or as many as the scores say. Default: scores, where they compare.",
    ),
]
Align = Annotated[int, typer.Option("--align", min=1, help="Layers keep a multiple of this number of channels.")]
Vectors = Annotated[
    int | None,
    typer.Option(
        "--align",
        min=1,
        help="Choose blocks, ratios and ranks in multiples of this number of channels: 16 for float32.",
    ),
]
Where = Annotated[
    list[str] | None,
    typer.Option("--where", metavar="GLOB", help="Convert only convolutions whose name matches; may be repeated."),
]
Exclude = Annotated[
    list[str] | None,
    typer.Option("--exclude", metavar="GLOB", help="Keep convolutions whose name matches dense; may be repeated."),
]
Include = Annotated[
    Literal["linear"] | None,
    typer.Option(
        "--include",
        metavar="linear",
        help="Convert linear layers too; the classifier only if --where gives its full name.",
    ),
]
State = Annotated[
    str | None,
    typer.Option(
        "--state",
        metavar="PART",
        help="The part of a checkpoint to load, if several fit: its keys with dots, or 'ema'.",
    ),
]
Size = Annotated[
    str | None,
    typer.Option(
        "--input-size",
        metavar="C,H,W",
        help="The size of one image: 3,224,224. Default: the size that the network declares.",
    ),
]
Init = Annotated[
    Literal["fresh", "fit"],
    typer.Option("--init", help="New weights: fresh, or fitted to the dense ones."),
]
FitData = Annotated[
    str | None,
    typer.Option(
        "--data", metavar="DATA", help="Fit to the outputs on training images: digits, cifar10, cifar100, or a folder."
    ),
]
FitImages = Annotated[int, typer.Option("--images", min=1, help="Number of training images for --data.")]
Sequential = Annotated[
    bool,
    typer.Option(
        "--sequential", help="With --data, fit layer after layer, each on the outputs of the lean layers before it."
    ),
]
Weights = Annotated[
    Path | None,
    typer.Option(
        "--weights",
        metavar="FILE",
        help="A checkpoint to load into TARGET first: .safetensors, an index of several, or a file of torch.save.",
    ),
]
Pretrained = Annotated[
    bool, typer.Option("--pretrained", help="Start from published weights, downloading them if needed.")
]
Data = Annotated[
    str,
    typer.Option(
        "--data", metavar="DATA",
        help="digits, cifar10, cifar100, a folder of images or parquet files, or shards: 'train-{000..127}.tar'.",
    ),
]  # fmt: skip
DataRoot = Annotated[
    Path | None, typer.Option("--data-root", metavar="DIR", help="The folder of cifar10 and cifar100. Default: data.")
]
Download = Annotated[
    bool, typer.Option("--download", help="Download cifar10 or cifar100 if the folder does not have them.")
]
OnBad = Annotated[
    Literal["skip", "refuse"],
    typer.Option(
        "--on-bad", help="For images that cannot be read: leave them out and count them, or stop and name all of them."
    ),
]
MaxPixels = Annotated[
    int | None,
    typer.Option("--max-pixels", min=1, help="Do not decode image files with more pixels. Default: 178,956,970."),
]
TestSplit = Annotated[
    float | None,
    typer.Option(
        "--test-split", metavar="FRACTION",
        help="For a folder without a test part, or with class folders only: test on this fraction of each class.",
    ),
]  # fmt: skip
LatencyBatch = Annotated[int, typer.Option("--latency-batch", min=1, help="Images a call when measuring latency.")]
On = Annotated[
    str | None,
    typer.Option(
        "--on", metavar="PLACE",
        help="Make each run a job of a cluster: ray, \"ray(gpus=1)\" or \"slurm(partition='gpu')\". Default: here.",
    ),
]  # fmt: skip
Latency = Annotated[
    bool,
    typer.Option(
        "--latency", help="Measure each layer dense and lean on this machine, and predict the time of the network."
    ),
]
FasterOnly = Annotated[
    bool, typer.Option("--faster-only", help="Keep groups dense that are slower lean on this machine.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Report = Annotated[
    Path | None, typer.Option("--report", metavar="FILE", help="Write an HTML page with the results: page.html.")
]
Average = Annotated[
    Literal["patterns", "cosines"],
    typer.Option("--average", help="filters, matrices: average the patterns of the images, or their cosines."),
]
Figure = Annotated[
    Literal["groups"] | None,
    typer.Option(
        "--figure", help="In place of TARGET: the time against the number of groups at fixed MACs (TBC's Fig. 3)."
    ),
]
Seed = Annotated[int, typer.Option("--seed", min=0, help="The seed of all random numbers.")]


def input_size(text: str | None) -> InputSize | None:
    """``"3,224,224"`` as (channels, height, width)."""
    if text is None:
        return None
    try:
        channels, height, width = (int(part) for part in text.replace("x", ",").split(","))
    except ValueError:
        raise SettingError(f"--input-size {text!r} must be channels,height,width: 3,224,224") from None
    if min(channels, height, width) < 1:
        raise SettingError(f"--input-size {text!r} must be three numbers of at least 1: 3,224,224")
    return channels, height, width


def formats_of(text: str) -> list[str]:
    """The formats of --to.

    Raises:
        SettingError: a format is unknown, or its packages are missing; nothing is written then.
    """
    from leanconv.deploy.formats import FORMATS, check_installed

    kinds = [kind.strip() for kind in text.split(",")]
    for kind in kinds:
        if kind not in FORMATS:
            raise SettingError(f"--to {kind!r} must be one of {', '.join(FORMATS)}")
        check_installed(kind)
    return kinds


def new_network(out: Path) -> None:
    """Raise an error if the network that a verb writes to `out` would replace the trained network of a run.

    >>> new_network(Path("missing"))
    """
    from leanconv.train.once import RUN_FILE

    if (out / RUN_FILE).exists():
        raise SettingError(f"{out} holds a run, whose network would be lost; choose another folder with -o")


def refuse(of: str, flags: Mapping[str, object], when: bool = True) -> None:
    """Raise an error that names the first flag that was given and that `of` does not use; nothing happens unless `when`.

    >>> refuse("--figure groups", {"--where": None})
    """
    for flag in (flag for flag, given in flags.items() if when and given):
        raise SettingError(f"{of} does not use {flag}; leave it out")
