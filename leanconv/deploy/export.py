"""Export a network to a file, run the file, compare it with PyTorch, and report its size."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from leanconv.conversion.dense import to_dense
from leanconv.core.atomic import make_ordinary
from leanconv.core.copying import copied, refuse_lazy
from leanconv.core.errors import CheckError, LeanconvError, LeanconvWarning, SettingError, first_line
from leanconv.core.notes import get_task, input_size_of, set_task
from leanconv.core.settings import check_choice, check_path
from leanconv.core.wrappers import unwrapped
from leanconv.deploy.compact import compact
from leanconv.deploy.formats import FORMATS, Runner, Sides, unique_bytes
from leanconv.inference.compare import LEAST, TIMES, difference, refuse_unsteady
from leanconv.inference.optimize import optimize

LARGER = ((3, 32, 32), (2, 33, 17))  # images, and pixels added to height and width: a multiple of all strides, and not
MOST_PIXELS = 2**22  # of an image that is tried beyond a limit in the network's code
TOLERANCE = 1e-4  # part of the largest output; float32 sums in another order differ by about 1e-6 of it
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
            feature maps are one pixel, or whose code asks for a size. A file that would run there with wrong outputs is
            written for the example's size only. None if it was not verified.
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
    kind = FORMATS[to]
    if not isinstance(model, nn.Module):
        raise SettingError(
            f"export takes a network, not {type(model).__name__}; load a folder with leanconv.load first"
        )
    refuse_lazy(model)
    model = copied(unwrapped(model)).eval().cpu().float()
    held = unique_bytes([*model.parameters(), *model.buffers()])
    example = _batch(torch.randn(2, *_size(model)) if example is None else example)
    answers = _Answers(model, example, images)
    shaped = _shaped(model, example, to, form)
    set_task(shaped, get_task(model))
    if get_task(model) is None and to != "state-dict":
        warnings.warn(NO_TASK, LeanconvWarning, stacklevel=2)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.stem}.") as folder:
        made = Path(folder) / path.name
        with _refused(model, to):
            sides = kind.write(shaped, example, made, form == "compact", True)
            error, any_size = _verified(made, shaped, example, to, form, answers, sides) if verify else (None, None)
            loaded = kind.loaded(made)
        size = sum(made.with_suffix(suffix).stat().st_size for suffix in kind.files)
        for suffix in reversed(kind.files):  # the file that users open comes last
            make_ordinary(made.with_suffix(suffix))
            os.replace(made.with_suffix(suffix), path.with_suffix(suffix))
    compared = len(answers.inputs) if verify else 0
    return Exported(path, to, form, held, size, loaded, error, compared, any_size)


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
    if to not in FORMATS:
        raise SettingError(
            f"to={to!r} must be one of {', '.join(FORMATS)}; or end the path in .onnx, .pt2, .xml or .safetensors"
        )
    missing = [name for name in FORMATS[to].packages if importlib.util.find_spec(name) is None]
    if missing:
        raise SettingError(f"{to} needs {', '.join(missing)}; pip install 'leanconv[{to}]'")
    suffix = FORMATS[to].files[0]
    return path if path.suffix == suffix else path.with_name(path.name + suffix), to


def _batch(example: Tensor) -> Tensor:
    """`example` as a batch of at least two images: the exporter would fix the batch size to one."""
    if not isinstance(example, Tensor) or example.is_meta:
        raise SettingError(f"example is {type(example).__name__} without values; give images as a tensor (N, C, H, W)")
    example = example.detach().cpu().float()
    if example.ndim != 4 or not len(example):
        raise SettingError(f"example has shape {tuple(example.shape)}; give images as (N, C, H, W)")
    return torch.cat([example, example]) if len(example) < 2 else example


class _Answers:
    """PyTorch's outputs on the images of the comparison.

    Args:
        model: the network.
        example: the example input.
        images: further inputs, besides the example and a batch of one.

    Raises:
        SettingError: the network gives another output at each call.
    """

    def __init__(self, model: nn.Module, example: Tensor, images: Sequence[Tensor]) -> None:
        self.inputs = [
            example,
            torch.randn(1, *example.shape[1:]),
            *(image.detach().cpu().float() for image in images),
        ]
        self.expected = [_expected(model, x) for x in self.inputs]
        refuse_unsteady(model, difference(_expected(model, example), self.expected[0]), self.expected[0])
        self.model = model
        self.bounds = _Bounds(model)

    def any_size(self, run: Runner, sides: Sides) -> bool:
        """Whether a file gives the right outputs on larger images; if so, these images are compared too.

        Args:
            run: the file.
            sides: the largest sides at which the network's code takes the way that the file holds; images beyond are tried.
        """
        channels, *own = self.inputs[0].shape[1:]
        shapes = [(batch, own[0] + height, own[1] + width) for batch, height, width in LARGER]
        if any(sides):
            height, width = ((largest or side) + 33 for largest, side in zip(sides, own, strict=True))
            if height * width > MOST_PIXELS:
                return False
            shapes.append((1, height, width))
        pairs = []
        for shape in shapes:
            x = torch.randn(shape[0], channels, *shape[1:])
            with contextlib.suppress(SettingError):  # PyTorch takes no such images
                pairs.append((x, _expected(self.model, x)))
        for x, expected in pairs:
            found = _output(run, x)
            if found is None or not self.bounds.holds(found, x, expected):
                return False
        self.inputs += [x for x, _ in pairs]
        self.expected += [expected for _, expected in pairs]
        return bool(pairs)


def _verified(
    made: Path, shaped: nn.Module, example: Tensor, to: str, form: str, answers: _Answers, sides: Sides
) -> tuple[float, bool]:
    """The largest difference between the file and PyTorch, and whether the file runs at any size.

    A file that is wrong at other sizes is written again, for the example's size only.
    """
    kind = FORMATS[to]
    run = kind.run(made, shaped)
    any_size = answers.any_size(run, sides)
    if not any_size and to != "state-dict":
        _fit_to(shaped, example)
        kind.write(shaped, example, made, form == "compact", False)
        run = kind.run(made, shaped)
    pairs = zip(answers.inputs, answers.expected, strict=True)
    return max(_difference(run, x, y, to, answers.bounds) for x, y in pairs), any_size


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


@torch.no_grad()
def _expected(model: nn.Module, x: Tensor) -> Tensor:
    try:
        y = model(x.clone())
    except Exception as error:  # the network's own code may raise anything
        raise SettingError(f"the network does not run on images of {tuple(x.shape)} ({first_line(error)})") from error
    if not isinstance(y, Tensor):
        raise SettingError(f"the network returns {type(y).__name__}; only one tensor can be compared")
    return y


def _output(run: Runner, x: Tensor) -> Tensor | None:
    """The output; None if the network or the file does not support this size. The runtime may raise anything."""
    try:
        with torch.no_grad():
            return run(x.clone())
    except Exception:
        return None


class _Bounds:
    """How much a file may differ from PyTorch: a small part of the largest output, or a multiple of PyTorch's own rounding."""

    def __init__(self, model: nn.Module) -> None:
        self.exact = copied(model).double()

    def holds(self, found: Tensor, x: Tensor, expected: Tensor) -> bool:
        far = difference(found, expected)
        return far.reason is None and far.error <= self.bound(x, expected)

    def bound(self, x: Tensor, expected: Tensor) -> float:
        largest = difference(expected, expected).largest
        try:
            rounding = difference(expected, _expected(self.exact, x.double()))
        except SettingError:  # the network has a cast or a plain tensor in its forward
            return TOLERANCE * max(1.0, largest)
        own = rounding.error if rounding.reason is None else 0.0
        return max(TOLERANCE * max(largest, LEAST), TIMES * own)


def _difference(run: Any, x: Tensor, expected: Tensor, to: str, bounds: _Bounds) -> float:
    try:
        with torch.no_grad():
            found = run(x.clone())
    except Exception as error:
        raise CheckError(
            f"the {to} file does not run on {tuple(x.shape)} ({first_line(error)}); nothing was written"
        ) from error
    far = difference(found, expected)
    if far.reason is not None:
        raise CheckError(f"the {to} file gives another output on {tuple(x.shape)}: {far.reason}; nothing was written")
    bound = bounds.bound(x, expected)
    if not far.error <= bound:
        raise CheckError(
            f"the {to} file differs from PyTorch by {far.error:.3g} on {tuple(x.shape)}, more than {bound:.3g}; "
            "nothing was written"
        )
    return far.error
