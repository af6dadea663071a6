"""Post-training quantisation to int8 for OpenVINO, by NNCF."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import logging
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

from leanconv.core.errors import CheckError, LeanconvWarning, SettingError
from leanconv.deploy.formats import TASK
from leanconv.timing.runtimes import openvino_core, quiet, without_telemetry

Labelled = tuple[Tensor, Tensor]  # a batch of images and their labels
NEAR = 0.05  # part of the outputs' norm by which an int8 file may differ at open and at fixed sizes: by rounding only


def quantize_openvino(
    path: Path, made: Path, images: Iterable[Tensor], check: Sequence[Labelled] = (), max_drop: float | None = None
) -> None:
    """Write the OpenVINO file `path` as the int8 file `made`; its own metadata is kept.

    If a map's number of channels depends on the image size in OpenVINO, as with blocks that are folded into the batch, the file
    is for the size of the images only.

    Args:
        path: the float32 file.
        made: the file to write.
        images: batches of training images, from which NNCF takes the ranges of activations.
        check: batches of labelled training images on which the accuracy is compared, for `max_drop`.
        max_drop: the largest loss of accuracy on `check`, in points. NNCF leaves those layers in float32 that lose most.

    Raises:
        SettingError: nncf is not installed, or `max_drop` is given without images to check.
        CheckError: OpenVINO computes other outputs for open sizes than for those of the images.
    """
    if importlib.util.find_spec("nncf") is None:
        raise SettingError("int8 for OpenVINO needs nncf; pip install 'leanconv[int8]'")
    if max_drop is not None and not check:
        raise SettingError(
            f"max_drop={max_drop} needs labelled training images, on which the accuracy is compared; give check"
        )
    batches = [batch.contiguous().numpy() for batch in images]
    model = openvino_core().read_model(path)
    _close_channels_(model, batches[0])
    with _nncf() as nncf:
        import openvino

        ranges, number = nncf.Dataset(batches, lambda batch: batch), len(batches)
        if max_drop is None:
            quantized = nncf.quantize(model, ranges, subset_size=number)
        else:
            quantized = nncf.quantize_with_accuracy_control(
                model, ranges, nncf.Dataset(list(check), lambda batch: batch[0].contiguous().numpy()), _accuracy,
                max_drop=max_drop / 100, drop_type=nncf.DropType.ABSOLUTE, subset_size=number,
            )  # fmt: skip
        _check_open_sizes(quantized, batches[0])
        openvino.save_model(quantized, made, compress_to_fp16=False)


def _close_channels_(model: Any, batch: np.ndarray) -> None:
    """Fix the image size of a network in which a map's number of channels is open until it runs.

    OpenVINO 2026.4 fuses a scale for each channel into the quantisation behind it, and uses wrong scales if the number of
    channels is open when the network is compiled. Blocks that are folded into the batch leave it open behind a stride.
    """
    asked = model.input(0).get_partial_shape()
    asked[1] = batch.shape[1]
    model.reshape(asked)
    outputs = (output for node in model.get_ops() for output in node.outputs())
    shapes = [output.get_partial_shape() for output in outputs]
    if not any(shape.rank.is_static and len(shape) == 4 and shape[1].is_dynamic for shape in shapes):
        return
    size = batch.shape[2:]
    model.reshape([-1, *batch.shape[1:]])
    place = ["leanconv", TASK]
    if model.has_rt_info(place):
        task = json.loads(str(model.get_rt_info(place).astype(str)))
        model.set_rt_info(json.dumps(task | {"image_size": list(size)}), place)
    warnings.warn(
        f"the int8 file takes images of {size[0]}x{size[1]} only, because its layers' channels depend on the image size in "
        "OpenVINO; form='fast' (--form fast) takes any size",
        LeanconvWarning,
        stacklevel=4,
    )


def _check_open_sizes(model: Any, batch: np.ndarray) -> None:
    """Raise CheckError if an int8 network computes something else for open sizes than for the sizes of `batch`."""
    fixed = model.clone()
    fixed.reshape(list(batch.shape))
    expected = _outputs(fixed, batch)
    far = np.linalg.norm(_outputs(model, batch) - expected) / max(np.linalg.norm(expected), np.finfo(np.float32).tiny)
    if not far <= NEAR:
        raise CheckError(
            f"OpenVINO's int8 outputs for open sizes differ by {far:.2g} of their norm from those for {batch.shape}; nothing "
            "was written; give runtime='onnxruntime' (--runtime onnxruntime)"
        )


def _outputs(model: Any, batch: np.ndarray) -> np.ndarray:
    compiled = openvino_core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return np.array(compiled([batch])[0])


def _accuracy(compiled: Any, batches: Iterable[Labelled]) -> tuple[float, list[float]]:
    """The accuracy of a compiled network on all batches, and on each of them, as NNCF asks for it."""
    right: list[Tensor] = []
    for images, labels in batches:
        right.append(torch.from_numpy(compiled([images.contiguous().numpy()])[0]).argmax(1) == labels)
    return float(torch.cat(right).double().mean()), [float(batch.double().mean()) for batch in right]


@contextlib.contextmanager
def _nncf() -> Iterator[Any]:
    """The module nncf, silent, with the only Core of this process in place of its own ones (`openvino_core`)."""
    without_telemetry()
    with quiet(), contextlib.redirect_stdout(sys.stderr):
        import nncf
        import openvino
        from openvino import _ov_api

        logger = logging.getLogger("nncf")
        parts: list[logging.Logger | logging.Handler] = [logger, *logger.handlers]
        levels = [(one, one.level) for one in parts]
        nncf.set_log_level(logging.ERROR)
        try:
            with patch.object(openvino, "Core", openvino_core), patch.object(_ov_api, "Core", openvino_core):
                yield nncf
        finally:
            for one, level in levels:
                one.setLevel(level)
