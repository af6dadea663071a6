"""Export a network, run the file, compare it with PyTorch, and say how large it is."""

from __future__ import annotations

import importlib.util
import os
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from leanconv.conversion.dense import to_dense
from leanconv.core.atomic import make_ordinary
from leanconv.core.base import input_size_of, unwrapped
from leanconv.core.copying import copied
from leanconv.core.errors import CheckError, SettingError, first_line
from leanconv.core.settings import one_of
from leanconv.core.task import get_task, set_task
from leanconv.deploy.compact import compact
from leanconv.deploy.formats import FORMATS, Runner, unique_bytes
from leanconv.inference.optimize import optimize

TOLERANCE = 1e-4  # of the largest output; float32 sums in another order differ by about 1e-6 of it
Form = Literal["compact", "fast"]


@dataclass(frozen=True)
class Exported:
    """What `export` wrote.

    Args:
        path: the file to open.
        unique_bytes: parameters and buffers of the network, each once.
        file_bytes: all files together.
        loaded_bytes: weights in memory once the runtime has loaded the file; None where it does not say.
        max_error: the largest difference from PyTorch's output; None when it was not verified.
        compared: inputs it was compared on.
        any_size: whether it runs on another image size than the example's; a network whose last maps are one pixel, or
            whose code asks for a size, may not. None when it was not verified.
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
        """As plain values; the path by its name."""
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
    """Write `model` for another runtime, with any batch and image size that it takes, and compare the two.

    Args:
        path: the file; its suffix says the format: .onnx, .pt2, .xml for OpenVINO, or .safetensors for the weights alone.
        to: the format, where the suffix does not say it.
        form: "compact" keeps what layers share, once, and layers thin; for ONNX the session options that keep it so once
            loaded are written beside it, as NAME.session.json. "fast" folds norms, expands weights as quick execution
            asks, and leaves the runtime its own folding; weights alone
            are those of the dense network that computes the same.
        example: an input, (N, C, H, W); None makes one of the size the network was made for.
        images: further inputs to compare on.
        verify: run the file on the example, on other batches and sizes, and on `images`.

    Raises:
        SettingError: an unknown format, a missing package, or a network that the exporter does not take.
        CheckError: the file computes something else; nothing is left behind.
    """
    path = Path(path)
    to = to or {files.files[0]: name for name, files in FORMATS.items()}.get(path.suffix)
    if to not in FORMATS:
        raise SettingError(
            f"to={to!r} must be one of {', '.join(FORMATS)}; or end the path in .onnx, .pt2, .xml or .safetensors"
        )
    one_of("form", form, ("compact", "fast"))
    kind = FORMATS[to]
    missing = [name for name in kind.packages if importlib.util.find_spec(name) is None]
    if missing:
        raise SettingError(f"{to} needs {', '.join(missing)}; pip install 'leanconv[{to}]'")
    if path.suffix != kind.files[0]:
        path = path.with_name(path.name + kind.files[0])
    model = copied(unwrapped(model)).eval().cpu().float()
    held = unique_bytes([*model.parameters(), *model.buffers()])
    example = torch.randn(2, *_size(model)) if example is None else example.detach().cpu().float()
    if example.ndim != 4 or not len(example):
        raise SettingError(f"example has shape {tuple(example.shape)}; give images as (N, C, H, W)")
    if len(example) < 2:  # one image would be taken for the only batch there is
        example = torch.cat([example, example])
    inputs = [example, torch.randn(1, *example.shape[1:]), *(image.detach().cpu().float() for image in images)]
    larger = torch.randn(3, example.shape[1], example.shape[2] + 32, example.shape[3] + 32)
    with torch.no_grad():
        expected = [_expected(model, x) for x in inputs]
        expected_larger = _output(model, larger)
    shaped = _shaped(model, example, to, form)
    set_task(shaped, get_task(model))
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.stem}.") as folder:
        made = Path(folder) / path.name
        kind.write(shaped, example, made, form == "compact")
        error, any_size = None, None
        if verify:
            run = kind.run(made, shaped)
            any_size = expected_larger is not None and _output(run, larger) is not None
            if expected_larger is not None and any_size:
                inputs, expected = [*inputs, larger], [*expected, expected_larger]
            error = max(_difference(run, x, y, to) for x, y in zip(inputs, expected, strict=True))
        loaded = kind.loaded(made)
        size = sum(made.with_suffix(suffix).stat().st_size for suffix in kind.files)
        for suffix in reversed(kind.files):  # the one that is opened comes last
            make_ordinary(made.with_suffix(suffix))
            os.replace(made.with_suffix(suffix), path.with_suffix(suffix))
    compared = len(inputs) if verify else 0
    return Exported(path, to, form, held, size, loaded, error, compared, any_size)


def _shaped(model: nn.Module, example: Tensor, to: str, form: str) -> nn.Module:
    """The module whose code and weights the file holds."""
    if form == "compact":
        return compact(model)
    if to == "state-dict":
        return to_dense(model)
    try:
        return optimize(model, example, measured=False, channels_last=False)
    except SettingError:  # its code cannot be traced: as it is, then, for the runtime to fold
        return model


def _size(model: nn.Module) -> tuple[int, int, int]:
    size = input_size_of(model)
    if size is None:
        raise SettingError("this network does not say its input size; pass example=torch.randn(2, C, H, W)")
    return size


def _expected(model: nn.Module, x: Tensor) -> Tensor:
    try:
        y = model(x)
    except RuntimeError as error:
        raise SettingError(f"the network does not run on images of {tuple(x.shape)} ({first_line(error)})") from error
    if not isinstance(y, Tensor):
        raise SettingError(f"the network returns {type(y).__name__}; only one tensor can be compared")
    return y


def _output(run: Runner, x: Tensor) -> Tensor | None:
    """None where this size is not taken: by the network, or by the file, whose runtime may raise anything."""
    try:
        with torch.no_grad():
            return run(x)
    except Exception:
        return None


def _difference(run: Any, x: Tensor, expected: Tensor, to: str) -> float:
    try:
        with torch.no_grad():
            found = run(x)
    except Exception as error:
        raise CheckError(
            f"the {to} file does not run on {tuple(x.shape)} ({first_line(error)}); nothing was written"
        ) from error
    if found.shape != expected.shape:
        raise CheckError(f"the {to} file gives {tuple(found.shape)} where PyTorch gives {tuple(expected.shape)}")
    off = float((found - expected).abs().max())
    bound = TOLERANCE * max(1.0, float(expected.abs().max()))
    if not off <= bound:
        raise CheckError(
            f"the {to} file differs from PyTorch by {off:.3g} on {tuple(x.shape)}, more than {bound:.3g}; nothing was written"
        )
    return off
