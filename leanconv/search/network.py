"""Predict the time of a whole network from the times of its layers, and compare with the measured time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from leanconv.core.meta import InputSize
from leanconv.inference.race import OPTIMIZED, race
from leanconv.timing.layers import LayerTime


def network_times(
    dense: nn.Module,
    lean: nn.Module,
    times: Sequence[LayerTime],
    input_size: InputSize,
    *,
    batch: int = 1,
    threads: int | None = None,
    runtime: str = "eager",
) -> dict[str, Any]:
    """Milliseconds of the whole network: dense, lean as predicted from its layers, and lean as measured.

    The predicted time is the time of the dense network, plus, for each converted layer, its lean time minus its dense time.
    Both networks are optimized for this device.

    Args:
        dense, lean: the networks.
        times: the times of the converted layers, from `leanconv.search.layer_times` with the same settings.
        input_size: (channels, height, width) of one image.
        batch: images in each call.
        threads, runtime: as in `leanconv.search.layer_times`.

    Returns:
        dense_ms, lean_ms, ratio, predicted_ms, and predicted_off_pct, the error of the prediction in percent of the measured
        time; or failed, with the reason, if one of the networks could not be timed.
    """
    example = torch.randn(batch, *input_size, generator=torch.Generator().manual_seed(0))
    networks = {"dense": dense, "lean": lean}
    found = race(networks, example, names=(runtime,), forms=(OPTIMIZED,), threads=threads)
    latency = {entry.network: entry.latency for entry in found}
    before, after = latency["dense"], latency["lean"]
    if before is None or after is None:
        return {"failed": "; ".join(entry.failed for entry in found if entry.failed)}
    predicted = before.median_ms + sum(time.lean_ms - time.dense_ms for time in times)
    return {
        "dense_ms": before.median_ms,
        "lean_ms": after.median_ms,
        "predicted_ms": predicted,
        "predicted_off_pct": 100 * (predicted / after.median_ms - 1),
        "ratio": after.ratio,
    }
