"""The times of ``leanconv inspect --latency``: each layer dense and lean, and what that makes of the network."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

    from leanconv.conversion.plan import Plan
    from leanconv.core.meta import InputSize
    from leanconv.search.faster import LayerTime


def times_of(plan: Plan, settings: dict[str, Any]) -> list[LayerTime]:
    """Measure the plan's layers, with a line of progress."""
    from leanconv.search.faster import layer_times

    times = layer_times(plan, **settings, progress=_progress)
    _progress(len(times), len(times))
    return times


def without_slower(plan: Plan) -> Plan:
    """`plan` without the groups that would be slower here.

    Raises:
        SettingError: none is left.
    """
    from leanconv.core.errors import SettingError
    from leanconv.search.faster import faster_only

    left = faster_only(plan, times_of(plan, {}))
    if not left.groups:
        raise SettingError(
            "every group would be slower lean on this machine; `leanconv inspect --latency` shows by how much"
        )
    return left


def of_network(
    dense: nn.Module, lean: nn.Module, times: list[LayerTime], size: InputSize, settings: dict[str, Any]
) -> dict[str, Any]:
    """Milliseconds of the whole network: dense, lean as predicted from its layers, and lean as measured.

    Predicted is the dense network's time, and for each converted layer its lean time less its dense one.
    """
    import torch

    from leanconv.inference.race import OPTIMIZED, race

    example = torch.randn(settings["batch"], *size, generator=torch.Generator().manual_seed(0))
    found = race(
        {"dense": dense, "lean": lean},
        example,
        names=(settings["runtime"],),
        forms=(OPTIMIZED,),
        threads=settings["threads"],
    )
    latency = {entry.network: entry.latency for entry in found}
    before, after = latency["dense"], latency["lean"]
    if before is None or after is None:
        reasons = "; ".join(entry.failed for entry in found if entry.failed)
        return {"failed": reasons}
    predicted = before.median_ms + sum(time.lean_ms - time.dense_ms for time in times)
    return {
        "dense_ms": before.median_ms,
        "lean_ms": after.median_ms,
        "predicted_ms": predicted,
        "predicted_off_pct": 100 * (predicted / after.median_ms - 1),
        "ratio": after.ratio,
    }


def _progress(done: int, total: int) -> None:
    if sys.stderr.isatty():
        print(f"\rmeasuring layers: {done}/{total}", end="\n" if done == total else "", file=sys.stderr, flush=True)
