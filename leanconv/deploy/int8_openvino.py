"""Post-training quantisation to int8 for OpenVINO, by NNCF."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from leanconv.core.errors import SettingError
from leanconv.timing.runtimes import openvino_core, quiet, without_telemetry

Labelled = tuple[Tensor, Tensor]  # a batch of images and their labels


def quantize_openvino(
    path: Path, made: Path, images: Iterable[Tensor], check: Sequence[Labelled] = (), max_drop: float | None = None
) -> None:
    """Write the OpenVINO file `path` as the int8 file `made`; its own metadata is kept.

    Args:
        path: the float32 file.
        made: the file to write.
        images: batches of training images, from which NNCF takes the ranges of activations.
        check: batches of labelled training images on which the accuracy is compared, for `max_drop`.
        max_drop: the largest loss of accuracy on `check`, in points. NNCF leaves those layers in float32 that lose most.

    Raises:
        SettingError: nncf is not installed, or `max_drop` is given without images to check.
    """
    if importlib.util.find_spec("nncf") is None:
        raise SettingError("int8 for OpenVINO needs nncf; pip install 'leanconv[int8]'")
    if max_drop is not None and not check:
        raise SettingError(
            f"max_drop={max_drop} needs labelled training images, on which the accuracy is compared; give check"
        )
    batches = [batch.contiguous().numpy() for batch in images]
    with _nncf() as nncf:
        import openvino

        model = openvino_core().read_model(path)
        ranges, number = nncf.Dataset(batches, lambda batch: batch), len(batches)
        if max_drop is None:
            quantized = nncf.quantize(model, ranges, subset_size=number)
        else:
            quantized = nncf.quantize_with_accuracy_control(
                model, ranges, nncf.Dataset(list(check), lambda batch: batch[0].contiguous().numpy()), _accuracy,
                max_drop=max_drop / 100, drop_type=nncf.DropType.ABSOLUTE, subset_size=number,
            )  # fmt: skip
        openvino.save_model(quantized, made, compress_to_fp16=False)


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

        nncf.set_log_level(logging.ERROR)
        with patch.object(openvino, "Core", openvino_core), patch.object(_ov_api, "Core", openvino_core):
            yield nncf
