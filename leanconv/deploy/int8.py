"""Post-training quantisation to int8, with ONNX Runtime's own tool or with NNCF for OpenVINO."""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from leanconv.core.errors import SettingError
from leanconv.core.generators import random_kept
from leanconv.core.logs import only_errors
from leanconv.core.notes import get_task
from leanconv.core.settings import check_choice, check_path
from leanconv.core.task import Task
from leanconv.data import ImageData, make_loader
from leanconv.deploy.export import Exported, Form, export, move
from leanconv.deploy.formats import FORMATS, OPTIONS, Runner, run_onnx, run_openvino
from leanconv.deploy.int8_openvino import Labelled, quantize_openvino
from leanconv.deploy.opened import Called
from leanconv.deploy.ranges import Shown
from leanconv.deploy.target import check_target
from leanconv.timing.busy import warn_if_busy
from leanconv.timing.latency import Latency, time_interleaved
from leanconv.timing.runtimes import quiet
from leanconv.train.evaluation import in_outputs
from leanconv.train.prepared import scores_of, size_for, some_batches

Runtime = Literal["onnxruntime", "openvino"]
FORMAT_OF = {"onnxruntime": "onnx", "openvino": "openvino"}


@dataclass(frozen=True)
class Quantized:
    """The files that `quantize` wrote.

    Args:
        path: the int8 file.
        float32: the float32 file before quantisation, which is kept beside the int8 file.
        file_bytes, loaded_bytes: as in `leanconv.deploy.export.Exported`.
        runtime: the runtime of both files.
    """

    path: Path
    float32: Exported
    file_bytes: int
    loaded_bytes: int | None
    runtime: Runtime = "onnxruntime"


def quantize(
    model: nn.Module,
    path: str | os.PathLike[str],
    images: Iterable[Tensor],
    *,
    runtime: Runtime = "onnxruntime",
    form: Form = "fast",
    example: Tensor | None = None,
    check: Sequence[Labelled] = (),
    max_drop: float | None = None,
) -> Quantized:
    """Write `model` as ``NAME.float32`` and, quantised, as ``NAME.int8``: .onnx files, or .xml files of OpenVINO.

    Weights become int8 with one scale for each output channel. Activations become int8 with one scale for each tensor, whose
    range comes from `images`: for ONNX Runtime the smallest and the largest value, for OpenVINO as NNCF measures it. Both files
    hold the task of the network in their own metadata.

    Args:
        model: the network.
        path: the file; the suffix is optional.
        images: batches in the network's input format, (N, C, H, W), or pairs of such a batch and its labels; a few hundred
            training images, never test images.
        runtime: "onnxruntime" or "openvino".
        form: as for `leanconv.export`. "fast" folds normalisation layers and expands shared weights. With "compact", a weight
            that layers share is quantised once, and the file holds it once. For OpenVINO, a compact network with tied blocks
            then takes images of the size of `images` only.
        example: as for `leanconv.export`.
        check, max_drop: for OpenVINO, batches of labelled training images, and the largest loss of accuracy on them in points.
            Layers that lose more stay in float32.

    Raises:
        SettingError: a package is missing, there are no images, the exporter does not support the network, or a file there is no
            export.
        DataError: an image holds NaN or infinity, or all images are alike.
        CheckError: the float32 file differs from PyTorch, or OpenVINO's int8 outputs depend on whether sizes are open.
    """
    check_choice("runtime", runtime, get_args(Runtime))
    if max_drop is not None and runtime != "openvino":
        raise SettingError(
            f"max_drop={max_drop} is NNCF's accuracy control; it needs runtime='openvino' (--runtime openvino)"
        )
    kind = FORMATS[FORMAT_OF[runtime]]
    suffix, path = kind.files[0], check_path("path", path)
    path = path if path.suffix == suffix else path.with_name(path.name + suffix)
    target, float32 = path.with_suffix(f".int8{suffix}"), path.with_suffix(f".float32{suffix}")
    for file in (target, float32):
        check_target(file, kind.files)
    shown = Shown(images, get_task(model))
    with random_kept():
        batches = iter(shown)
        first = next(batches, None)
        if first is None:
            raise SettingError(
                "images is empty; give a few batches of training images, from which the ranges are measured"
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.stem}.") as folder:
            before, made = Path(folder) / float32.name, Path(folder) / target.name
            example = first[:2] if example is None else example
            exported = export(model, before, to=FORMAT_OF[runtime], form=form, example=example)
            quantize_file(before, made, itertools.chain([first], batches), runtime, check, max_drop)
            loaded = kind.loaded(made)
            move(before, float32, kind.files)  # both files are of one call, or neither
            size = move(made, target, kind.files)
    shown.warn()
    return Quantized(target, replace(exported, path=float32), size, loaded, runtime)


def quantize_file(
    path: Path, made: Path, images: Iterable[Tensor], runtime: Runtime, check: Sequence[Labelled] = (),
    max_drop: float | None = None,
) -> None:  # fmt: skip
    """Write an exported float32 file `path` as the int8 file `made`; the other arguments are as for `quantize`."""
    if runtime == "openvino":
        quantize_openvino(path, made, images, check, max_drop)
        return
    _quantize_onnx(path, made, images)
    made.with_suffix(OPTIONS).write_text(path.with_suffix(OPTIONS).read_text())


def _quantize_onnx(path: Path, made: Path, images: Iterable[Tensor]) -> None:
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
    """Measure both files in their runtime on the CPU: accuracy on the test part of `data`, and latency; float32 comes first.

    Args:
        made: the result of `quantize`.
        data: the data set.
        task: the network's image size, channels, mean and std.
        batch: images in a call, for the latency.
        threads: CPU threads; None for one on each core.
        seconds: seconds of timing for both files together.
    """
    files = {"float32": made.float32.path, "int8": made.path}
    open_file = run_onnx if made.runtime == "onnxruntime" else run_openvino
    scores = {name: scores_of(Called(open_file(path, threads)), data, task) for name, path in files.items()}
    x = torch.randn(batch, task.channels, *task.image_size)
    timed = {name: partial(_timed(made.runtime, path, threads, x.shape), x) for name, path in files.items()}
    times = time_interleaved(timed, seconds=seconds)
    warn_if_busy(times[0].busy)
    sizes = {
        "float32": (made.float32.file_bytes, made.float32.loaded_bytes),
        "int8": (made.file_bytes, made.loaded_bytes),
    }
    return [
        Int8Row(time.name, *sizes[time.name], scores[time.name].top1_pct, scores[time.name].n, time) for time in times
    ]


def _timed(runtime: Runtime, path: Path, threads: int | None, shape: Sequence[int]) -> Runner:
    return run_onnx(path, threads) if runtime == "onnxruntime" else run_openvino(path, threads, shape)


def calibration(data: ImageData, task: Task, count: int, seed: int = 0) -> Iterator[Tensor]:
    """`count` images of the train part in the network's input format, drawn without repetition, in batches of 64.

    Args:
        data: the data set.
        task: the network's image size, channels, mean and std.
        count: the number of images.
        seed: of the draw.
    """
    return some_batches(data.train, data, task, count, seed=seed, batch_size=64)


def held_for_check(data: ImageData, task: Task, count: int, calibrate: int, seed: int = 0) -> list[Labelled]:
    """`count` labelled images of the train part in batches of 64, beside the first `calibrate` of the draw of `calibration`.

    The labels are numbers of the network's outputs, whatever order the classes of the data have.

    Raises:
        SettingError: the train part has no other images.
    """
    rows = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(seed))[calibrate : calibrate + count]
    if not len(rows):
        raise SettingError(
            f"the train part of {data.name} has {len(data.train)} images and --calibrate (calibrate) takes {calibrate}; "
            "--max-drop (max_drop) needs other ones, so take fewer"
        )
    loader = make_loader(
        in_outputs(data.train.subset(rows), task.classes),
        mean=task.mean,
        std=task.std,
        batch_size=64,
        image_size=size_for(data, task),
        train=False,
    )
    return list(loader)
