"""Post-training quantisation to int8 with ONNX Runtime's own tool."""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from leanconv.core.atomic import make_ordinary
from leanconv.core.errors import SettingError
from leanconv.core.logs import only_errors
from leanconv.core.task import Task
from leanconv.data import ImageData
from leanconv.deploy.export import Exported, export
from leanconv.deploy.formats import FORMATS, OPTIONS, Runner, run_onnx
from leanconv.timing.busy import warn_if_busy
from leanconv.timing.latency import Latency, time_interleaved
from leanconv.timing.runtimes import quiet
from leanconv.train.prepared import scores_of, some_batches


@dataclass(frozen=True)
class Quantized:
    """The files that `quantize` wrote.

    Args:
        path: the int8 ONNX file.
        float32: the float32 file before quantisation, which is kept beside the int8 file.
        file_bytes, loaded_bytes: as in `leanconv.deploy.export.Exported`.
    """

    path: Path
    float32: Exported
    file_bytes: int
    loaded_bytes: int | None


def quantize(
    model: nn.Module, path: str | os.PathLike[str], images: Iterable[Tensor], *, example: Tensor | None = None
) -> Quantized:
    """Write `model` as ``NAME.float32.onnx`` and, quantised, as ``NAME.int8.onnx``.

    Weights become int8 with one scale for each output channel. Activations become int8 with one scale for each tensor, whose
    range is the smallest and the largest value on `images`. The export has the fast form, so that normalisation layers are
    folded and not quantised by themselves.

    Args:
        model: the network.
        path: the file; the suffix ``.onnx`` is optional.
        images: batches in the network's input format, (N, C, H, W); a few hundred training images, never test images.
        example: as for `leanconv.export`.

    Raises:
        SettingError: a package is missing, there are no images, or the exporter does not support the network.
        CheckError: the float32 file differs from PyTorch.
    """
    path = Path(path)
    path = path if path.suffix == ".onnx" else path.with_name(path.name + ".onnx")
    batches = iter(images)
    first = next(batches, None)
    if first is None:
        raise SettingError("images is empty; give a few batches of training images, from which the ranges are measured")
    if first.ndim != 4:
        raise SettingError(f"images come as {tuple(first.shape)}; give batches (N, C, H, W), such as [images]")
    exported = export(
        model,
        path.with_suffix(".float32.onnx"),
        to="onnx",
        form="fast",
        example=first[:2] if example is None else example,
    )
    target = path.with_suffix(".int8.onnx")
    kind = FORMATS["onnx"]
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.stem}.") as folder:
        made = Path(folder) / target.name
        _quantize(exported.path, made, itertools.chain([first], batches))
        made.with_suffix(OPTIONS).write_text(exported.path.with_suffix(OPTIONS).read_text())
        loaded = kind.loaded(made)
        size = sum(made.with_suffix(suffix).stat().st_size for suffix in kind.files)
        for suffix in reversed(kind.files):
            make_ordinary(made.with_suffix(suffix))
            os.replace(made.with_suffix(suffix), target.with_suffix(suffix))
    return Quantized(target, exported, size, loaded)


def _quantize(path: Path, made: Path, images: Iterable[Tensor]) -> None:
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    name = onnx.load(path, load_external_data=False).graph.input[0].name
    feeds = ({name: x.contiguous().numpy()} for x in images)

    class Reader(CalibrationDataReader):
        def get_next(self) -> dict[str, Any] | None:
            return next(feeds, None)

    with quiet(), only_errors("root"):  # the tool recommends a preparation that the export has done already
        quantize_static(
            path,
            made,
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
        )


@dataclass(frozen=True)
class Int8Row:
    """The measurement of one of the two files.

    Args:
        name: "float32" or "int8".
        file_bytes, loaded_bytes: as in `Quantized`.
        top1_pct: accuracy in percent on the test part, which has `n` images.
        latency: of one call on a batch; the ratio is to float32.
    """

    name: str
    file_bytes: int
    loaded_bytes: int | None
    top1_pct: float
    n: int
    latency: Latency


def compare_int8(
    made: Quantized, data: ImageData, task: Task, *, batch: int = 1, threads: int | None = None, seconds: float = 10.0
) -> list[Int8Row]:
    """Measure both files in ONNX Runtime on the CPU: accuracy on the test part of `data`, and latency; float32 comes first.

    Args:
        made: the result of `quantize`.
        data: the data set.
        task: the network's image size, channels, mean and std.
        batch: images in a call, for the latency.
        threads: CPU threads; None for one on each core.
        seconds: seconds of timing for both files together.
    """
    files = {"float32": made.float32.path, "int8": made.path}
    runs = {name: run_onnx(path, threads) for name, path in files.items()}
    scores = {name: scores_of(Called(run), data, task) for name, run in runs.items()}
    x = torch.randn(batch, task.channels, *task.image_size)
    times = time_interleaved({name: partial(run, x) for name, run in runs.items()}, seconds=seconds)
    warn_if_busy(times[0].busy)
    sizes = {
        "float32": (made.float32.file_bytes, made.float32.loaded_bytes),
        "int8": (made.file_bytes, made.loaded_bytes),
    }
    return [
        Int8Row(time.name, *sizes[time.name], scores[time.name].top1_pct, scores[time.name].n, time) for time in times
    ]


def calibration(data: ImageData, task: Task, count: int, seed: int = 0) -> Iterator[Tensor]:
    """`count` images of the train part in the network's input format, drawn without repetition, in batches of 64.

    Args:
        data: the data set.
        task: the network's image size, channels, mean and std.
        count: the number of images.
        seed: of the draw.
    """
    return some_batches(data.train, data, task, count, seed=seed, batch_size=64)


class Called(nn.Module):
    """A runtime's call as a module, which `evaluate` needs."""

    def __init__(self, run: Runner) -> None:
        super().__init__()
        self.run = run

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x)
