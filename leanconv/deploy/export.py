"""Export a network to a file, run the file, compare it with PyTorch, and report its size."""

from __future__ import annotations

import contextlib
import os
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from leanconv.conversion.dense import to_dense
from leanconv.core.atomic import make_ordinary
from leanconv.core.copying import copied, refuse_lazy, refuse_meta
from leanconv.core.errors import LeanconvError, LeanconvWarning, SettingError, first_line
from leanconv.core.generators import random_kept
from leanconv.core.modes import in_eval
from leanconv.core.notes import get_task, input_size_of, set_task
from leanconv.core.settings import check_choice, check_path
from leanconv.core.storage import tie_
from leanconv.core.wrappers import unwrapped
from leanconv.deploy.answers import Answers
from leanconv.deploy.compact import compact
from leanconv.deploy.formats import FORMATS, check_installed, unique_bytes
from leanconv.deploy.sizes import Guard
from leanconv.deploy.target import check_target
from leanconv.inference.optimize import optimize

NO_TASK = (
    "the file holds no task, so a server does not know its classes and how images are prepared; give --classes and --like, "
    "or --mean and --std (lc.note_task(model, classes=..., like=...))"
)
Form = Literal["compact", "fast", "measured"]
CHOOSES = {"onnx": "onnxruntime", "openvino": "openvino"}  # the runtime that measures the forms; otherwise eager


@dataclass(frozen=True)
class Exported:
    """The files that `export` wrote, and how they compare with PyTorch.

    Args:
        path: the file to open.
        to: the format.
        form: "compact", "fast" or "measured".
        unique_bytes: bytes of the network's parameters and buffers, each counted once.
        file_bytes: bytes of all files together.
        loaded_bytes: bytes of the weights in memory after the runtime loaded the file; None if it does not show them.
        max_error: the largest difference from PyTorch's output; None if it was not verified.
        compared: the number of inputs on which the file was compared.
        any_size: whether the file runs correctly on image sizes other than the example's. It may not for a network whose last
            feature maps are one pixel, or whose code asks for a size. A file that would run with wrong outputs on a larger, a
            smaller, a landscape or a portrait image, or beyond a size for which the code asks, is written for the example's
            size only. None if it was not verified.
    """

    path: Path
    to: str
    form: str
    unique_bytes: int
    file_bytes: int
    loaded_bytes: int | None
    max_error: float | None
    compared: int
    any_size: bool | None

    def to_json(self) -> dict[str, Any]:
        """The result as plain values; the path by its name."""
        return {**asdict(self), "path": self.path.name}


def export(
    model: nn.Module,
    path: str | os.PathLike[str],
    *,
    to: str | None = None,
    form: Form = "compact",
    example: Tensor | None = None,
    images: Sequence[Tensor] = (),
    verify: bool = True,
) -> Exported:
    """Write `model` for another runtime, for any batch and image size that it supports, and compare the file with PyTorch.

    The file's own metadata hold the task of the network (`leanconv.set_task`): classes, mean, std, and the image size of
    training, or the example's size if the file runs only at that size. For a network without a task, a warning says so:
    `leanconv.note_task` notes what leanconv cannot know.

    Args:
        model: the network.
        path: the file. Its suffix gives the format: .onnx, .pt2, .xml for OpenVINO, or .safetensors for the weights alone.
        to: the format, if the suffix does not give it.
        form: "compact" stores shared weights once and does not expand weights. For ONNX, NAME.session.json then holds the
            session options that keep the weights compact after loading. "fast" folds normalisation layers, expands weights
            for speed, and lets the runtime fold constants; a file of weights alone then holds those of the equal dense network.
            "measured" is "fast" with the form of each layer that is fastest here, in the runtime of the file. The file's own
            metadata hold the forms.
        example: an input, (N, C, H, W); None makes one of the network's input size.
        images: further inputs for the comparison.
        verify: run the file on the example, on other batches and sizes, and on `images`. Floating-point outputs may differ
            by rounding, NaN and infinities must be in the same places, and all other outputs must be equal.

    Raises:
        SettingError: the format is unknown, a package is missing, the exporter does not support the network, or the network
            gives another output at each call.
        CheckError: the file computes something else; no file is then written.

    >>> result = export(nn.Conv2d(3, 4, 3), "conv.safetensors", example=torch.zeros(1, 3, 8, 8))
    >>> result.path.name, result.max_error
    ('conv.safetensors', 0.0)
    """
    path, to = _destination(check_path("path", path), to)
    check_choice("form", form, get_args(Form))
    if not isinstance(model, nn.Module):
        raise SettingError(
            f"export takes a network, not {type(model).__name__}; load a folder with leanconv.load first"
        )
    refuse_lazy(model)
    refuse_meta(model, "load its weights first")
    images = _images(images)
    if get_task(model) is None and to != "state-dict":
        warnings.warn(NO_TASK, LeanconvWarning, stacklevel=2)
    with random_kept():
        return _exported(unwrapped(model), path, to, form, example, images, verify)


def _exported(
    model: nn.Module, path: Path, to: str, form: Form, example: Tensor | None, images: Sequence[Tensor], verify: bool
) -> Exported:
    kind, task = FORMATS[to], get_task(model)
    model = in_eval(copied(model))
    tie_(model)
    model = model.cpu().float()
    held = unique_bytes([*model.parameters(), *model.buffers()])
    given = _checked(torch.randn(2, *_size(model)) if example is None else example)
    batch = torch.cat([given, given]) if len(given) < 2 else given  # the exporter would fix the batch size to one
    answers = Answers(model, batch, images)
    shaped = _shaped(model, given if example is not None else given[:1], to, form)
    set_task(shaped, task)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.stem}.") as folder:
        made = Path(folder) / path.name
        with _refused(model, to):
            guard = kind.write(shaped, batch, made, form == "compact", True)
            error, any_size = _verified(made, shaped, batch, to, form, answers, guard) if verify else (None, None)
            loaded = kind.loaded(made)
        size = move(made, path, kind.files)
    compared = len(answers.inputs) if verify else 0
    return Exported(path, to, form, held, size, loaded, error, compared, any_size)


def move(made: Path, path: Path, suffixes: Sequence[str]) -> int:
    """Move the files of an export to `path`, that which users open last; returns their size in bytes."""
    size = sum(made.with_suffix(suffix).stat().st_size for suffix in suffixes)
    for suffix in reversed(suffixes):
        make_ordinary(made.with_suffix(suffix))
        os.replace(made.with_suffix(suffix), path.with_suffix(suffix))
    return size


@contextlib.contextmanager
def _refused(model: nn.Module, to: str) -> Iterator[None]:
    """Raise SettingError where the exporter or the runtime raises an error of its own inside the block."""
    try:
        yield
    except (LeanconvError, OSError):
        raise
    except Exception as error:  # an operation that the format lacks
        lines = [
            line for line in str(error).splitlines() if "No conversion rule" in line
        ]  # OpenVINO says it below others
        reason = lines[0] if lines else first_line(error)
        raise SettingError(f"{to} does not take {type(model).__name__} ({reason}); choose another format") from error


def _destination(path: Path, to: str | None) -> tuple[Path, str]:
    """The file to write, with the suffix of its format, and the format, if its packages are installed."""
    to = to or {files.files[0]: name for name, files in FORMATS.items()}.get(path.suffix)
    if not isinstance(to, str) or to not in FORMATS:
        raise SettingError(
            f"to={to!r} must be one of {', '.join(FORMATS)}; or end the path in .onnx, .pt2, .xml or .safetensors"
        )
    check_installed(to)
    suffix = FORMATS[to].files[0]
    path = path if path.suffix == suffix else path.with_name(path.name + suffix)
    check_target(path, FORMATS[to].files)
    return path, to


def _images(images: Any) -> list[Tensor]:
    """`images` as a list, after a check that they are batches."""
    if isinstance(images, Iterable) and not isinstance(images, str | Tensor):
        images = list(images)
        if all(isinstance(image, Tensor) and image.ndim == 4 and len(image) for image in images):
            return images
        images = next(image for image in images if not (isinstance(image, Tensor) and image.ndim == 4 and len(image)))
    shown = f"a tensor {tuple(images.shape)}" if isinstance(images, Tensor) else f"a {type(images).__name__}"
    raise SettingError(
        f"images is or holds {shown} and must be a list of batches (N, C, H, W); leanconv.deploy.images.image_tensors reads "
        "a folder"
    )


def _checked(example: Any) -> Tensor:
    """`example` on the CPU in float32, after a check that it is a batch."""
    if not isinstance(example, Tensor) or example.is_meta:
        raise SettingError(f"example is {type(example).__name__} without values; give images as a tensor (N, C, H, W)")
    example = example.detach().cpu().float()
    if example.ndim != 4 or not len(example):
        raise SettingError(f"example has shape {tuple(example.shape)}; give images as (N, C, H, W)")
    return example


def _verified(
    made: Path, shaped: nn.Module, example: Tensor, to: str, form: str, answers: Answers, guard: Guard
) -> tuple[float, bool]:
    """The largest difference between the file and PyTorch, and whether the file runs at any size.

    A file that is wrong at other sizes is written again, for the example's size only.
    """
    kind = FORMATS[to]
    run = kind.run(made, shaped)
    any_size = answers.any_size(run, guard)
    if not any_size and to != "state-dict":
        _fit_to(shaped, example)
        kind.write(shaped, example, made, form == "compact", False)
        run = kind.run(made, shaped)
    return answers.error(run, to), any_size


def _shaped(model: nn.Module, example: Tensor, to: str, form: str) -> nn.Module:
    """The module whose code and weights the file holds."""
    if form == "compact":
        return compact(model)
    if to == "state-dict":
        return to_dense(model)
    measured = form == "measured"
    return optimize(model, example, measured=measured, runtime=CHOOSES.get(to, "eager"), channels_last=False)


def _fit_to(model: nn.Module, example: Tensor) -> None:
    """Record the example's size in the network's task, if the file runs at no other size."""
    task, size = get_task(model), (example.shape[2], example.shape[3])
    if task is not None and task.image_size != size:
        set_task(model, replace(task, image_size=size))


def _size(model: nn.Module) -> tuple[int, int, int]:
    size = input_size_of(model)
    if size is None:
        raise SettingError("this network does not note its input size; pass example=torch.randn(2, C, H, W)")
    return size
