"""Predict the classes of image files, in any of the runtimes."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from leanconv.core.errors import DataError, SettingError
from leanconv.core.meta import own_dtype
from leanconv.core.modes import evaluating
from leanconv.core.settings import check_choice, check_int
from leanconv.core.task import Task
from leanconv.data.encoded import MAX_PIXELS
from leanconv.deploy.export import export
from leanconv.deploy.formats import FORMATS, Runner
from leanconv.deploy.images import image_tensor
from leanconv.train.scoring import logits_of

Backend = Literal["pytorch", "onnxruntime", "openvino"]
FORMAT_OF = {"onnxruntime": "onnx", "openvino": "openvino"}


@dataclass(frozen=True)
class Prediction:
    """The likeliest classes of one image.

    Args:
        path: the image file.
        labels: the likeliest classes, best first; their numbers if the names are not known.
        confidences: their softmax probabilities.
        error: why there is no prediction; None otherwise.
    """

    path: Path
    labels: tuple[str, ...] = ()
    confidences: tuple[float, ...] = ()
    error: str | None = None


def predict(
    model: nn.Module,
    paths: Sequence[Path],
    task: Task,
    *,
    backend: Backend = "pytorch",
    top: int = 5,
    max_pixels: int = MAX_PIXELS,
) -> Iterator[Prediction]:
    """Yield the likeliest classes of each image; for an image that cannot be read, yield its error and continue.

    Args:
        model: the network.
        paths: the image files.
        task: the network's image size, channels, mean, std and classes.
        backend: "pytorch", "onnxruntime" or "openvino".
        top: the number of classes for each image.
        max_pixels: an image file with more pixels cannot be read.

    Raises:
        SettingError: the backend is unknown or not installed, the network does not return one tensor (N, classes), or the number
            of class names differs from the number of outputs.
        CheckError: the runtime computes something else than PyTorch.

    >>> task = Task((0.5,), (0.5,), (8, 8), ("a", "b"))
    >>> next(predict(nn.Flatten(), [Path("missing.png")], task)).labels
    ()
    """
    check_int("top", top)
    run = runner(model, task, backend)
    for path in paths:
        try:
            x = image_tensor(path, task, max_pixels)
        except DataError as error:
            yield Prediction(path, error=str(error))
            continue
        with torch.inference_mode():
            scores = torch.softmax(logits_of(run(x))[0].float(), 0)
        names = task.classes or tuple(map(str, range(len(scores))))
        if len(names) != len(scores):
            raise SettingError(
                f"{len(names)} class names for {len(scores)} outputs; give one a line with --labels, in the order of training"
            )
        if not scores.isfinite().all():
            yield Prediction(path, error="the network's output holds NaN or infinity")
            continue
        best = scores.topk(min(top, len(scores)))
        labels = tuple(names[index] for index in best.indices.tolist())
        yield Prediction(path, labels, tuple(best.values.tolist()))


def runner(model: nn.Module, task: Task, backend: Backend) -> Runner:
    """`model` as a call on one image in `backend`; for another runtime than PyTorch, the network is exported and compared first.

    Args:
        model: the network.
        task: the network's image size and channels.
        backend: "pytorch", "onnxruntime" or "openvino".

    Raises:
        SettingError, CheckError: as for `leanconv.export`.
    """
    check_choice("backend", backend, get_args(Backend))
    if backend == "pytorch":
        return lambda x: _evaluated(model, x)
    kind = FORMATS[FORMAT_OF[backend]]
    example = torch.randn(2, task.channels, *task.image_size)
    with tempfile.TemporaryDirectory() as folder:
        made = export(model, Path(folder) / "net", to=FORMAT_OF[backend], form="fast", example=example)
        return kind.run(made.path, model)


def _evaluated(model: nn.Module, x: Tensor) -> Any:
    """The output of `model` in eval mode, which it is in for this call only."""
    with evaluating(model):
        return model(x.to(own_dtype(model, x.dtype)))
