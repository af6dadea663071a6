"""All verbs, and the handling of errors."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

import typer

from leanconv.cli.analyse import analyse
from leanconv.cli.bench import bench
from leanconv.cli.compare import compare
from leanconv.cli.convert import convert
from leanconv.cli.convert_checkpoint import convert_checkpoint
from leanconv.cli.demo import demo
from leanconv.cli.detect import app as detect
from leanconv.cli.doctor import doctor
from leanconv.cli.evaluate import evaluate
from leanconv.cli.export import export
from leanconv.cli.inspect import inspect
from leanconv.cli.lean import lean
from leanconv.cli.models import models
from leanconv.cli.predict import predict
from leanconv.cli.prune import prune
from leanconv.cli.quantize import quantize
from leanconv.cli.reproduce import reproduce
from leanconv.cli.train import train
from leanconv.cli.usage import Verbs
from leanconv.core.errors import LeanconvError, LeanconvWarning
from leanconv.core.processes import leads
from leanconv.core.shown import plain
from leanconv.core.version import __version__

VERBS: dict[str, tuple[Callable[..., None], str]] = {
    "demo": (demo, "demo"),
    "lean": (lean, "lean runs/dense --data digits --budget time=0.5 --runtime openvino --out runs/lean"),
    "models": (models, "models 'timm/resnet*'"),
    "inspect": (inspect, 'inspect timm/resnet50 --method "tied_block(blocks=2)" --exclude conv1'),
    "convert": (convert, 'convert timm/resnet50 --pretrained --method "tied_block(blocks=2)" --init fit -o lean/'),
    "convert-checkpoint": (
        convert_checkpoint,
        "convert-checkpoint resnet34_s32u1.pth 'basis_resnet34(shared=32)' -o lean/",
    ),
    "train": (train, 'train resnet20 --method "split(ratio=0.5)" --data digits --epochs 20 --out runs/split'),
    "eval": (evaluate, "eval runs/split --data digits"),
    "compare": (compare, 'compare resnet20 --methods "dense,tied_block(blocks=2),split(ratio=0.5)" --data digits'),
    "analyse": (analyse, "analyse runs/dense runs/tied --what filters --data cifar10 -o similarity.svg"),
    "prune": (prune, "prune runs/dense --macs 0.5 --data digits -o lean/"),
    "bench": (bench, "bench timm/resnet50 tied_resnet50_s --runtimes eager,openvino --batch 1,16"),
    "export": (export, "export lean/ --to onnx,openvino -o files/"),
    "quantize": (quantize, "quantize runs/split --data digits -o files/"),
    "predict": (predict, "predict runs/split photos/ --backend onnxruntime"),
    "reproduce": (reproduce, "reproduce spconv --table 1"),
    "doctor": (doctor, "doctor"),
}

# Verbs that train or test: with torchrun or srun, every process takes part. The other verbs run in the first process only.
TOGETHER = ("train", "compare", "reproduce", "detect", "eval")

app = typer.Typer(
    name="leanconv",
    cls=Verbs,
    help="Make convolutional networks lean: fewer parameters and MACs, trained, compared and measured on your machine.",
    epilog="Start with: leanconv demo",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
for verb, (function, example) in VERBS.items():
    app.command(verb, epilog=f"Example: leanconv {example}")(function)
app.add_typer(detect, name="detect", help="Detectors on dense and lean backbones: shapes, train, eval, predict.")


def _version(asked: bool) -> None:
    if asked:
        print(__version__)
        raise typer.Exit


@app.callback()
def _common(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    if not (context.invoked_subcommand in TOGETHER or leads()):
        raise typer.Exit


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 1 the run failed, 2 bad input, 3 a check was not met, 130 interrupted."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments
    _open_streams()
    warnings.showwarning = partial(_show_warning, warnings.showwarning)
    try:
        app(args=[argument for argument in arguments if argument != "--debug"], prog_name="leanconv")
    except SystemExit as end:
        sys.exit(_flushed(end.code))
    except KeyboardInterrupt:
        sys.exit(130)
    except LeanconvError as error:
        if debug:
            raise
        _fail(str(error))
        sys.exit(error.exit_code)
    except OSError as error:
        if debug:
            raise
        if isinstance(error, FileExistsError | NotADirectoryError) and error.filename:
            _fail(f"{error.filename} cannot be a folder: a file has this name; choose another place")
            sys.exit(2)
        what = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        _fail(f"{what}; check the path, its permissions and the space left")
        sys.exit(2)
    except (MemoryError, RuntimeError) as error:
        if debug or not _of_memory(error):
            raise
        _fail(
            "the images and the network do not fit into memory; give a smaller --image-size or --batch-size, where there is one"
        )
        sys.exit(2)


def _of_memory(error: Exception) -> bool:
    """Whether Python or torch had too little memory, on the CPU or on a GPU."""
    lacking = ("can't allocate memory", "not enough memory", "Storage size calculation overflowed")
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or any(one in str(error) for one in lacking)
    )


def _open_streams() -> None:
    """Give a standard output or error that the caller closed (``>&-``) the null device; Python has None there."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # left closed, its number would go to the next file that is opened
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115  open until the process ends


def _show_warning(others: Callable[..., None], message: Warning | str, category: type[Warning], *where: Any) -> None:
    """Print a warning of leanconv as one line; `others` shows the warnings of other libraries."""
    if issubclass(category, LeanconvWarning):
        _fail(f"warning: {message}")
    else:
        others(message, category, *where)


def _fail(message: str) -> None:
    print(f"leanconv: {plain(message)}", file=sys.stderr)


def _flushed(code: str | int | None) -> str | int | None:
    """Flush standard output and return the exit code. If standard output is closed, print one line, not a traceback."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        _fail("standard output was closed before everything was written")
        return 1
    return code
