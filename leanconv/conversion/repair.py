"""Repair of the outputs of lean layers in networks without batch norms."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from leanconv.conversion.apply import members_of
from leanconv.conversion.calibrate import InputSums
from leanconv.conversion.moments import again, first_calls, run
from leanconv.core.operator import ConvOp
from leanconv.core.pointwise import PointwiseLinear
from leanconv.core.wrappers import unwrapped


@torch.no_grad()
def repair_outputs_(lean: nn.Module, model: nn.Module, batches: Iterable[Any]) -> list[str]:
    """Give the output channels of lean layers the means and standard deviations that they have in `model`, in place.

    A fit makes the outputs of a layer smaller: what it cannot express is missing. Batch norms correct this when they are
    estimated again (`leanconv.reestimate_norms_`); a network without batch norms needs this step. Layer after layer, in the
    order of their first calls, the filters are multiplied by the ratio of the standard deviations, and the bias takes the
    difference of the means. Outputs that share a filter or a bias take the mean of their corrections. Operators whose outputs
    cannot be scaled (`ConvOp.rescale_`) get the bias only, and operators without a bias of their own the scale only.

    Args:
        lean: the converted network.
        model: the dense network.
        batches: inputs of the network, or pairs (inputs, anything), as in `leanconv.convert`. They are read once for `model`
            and once for each lean layer.

    Returns:
        the names of the layers that were changed, in their order.

    Raises:
        DataError: there is no batch.
    """
    lean, model = unwrapped(lean), unwrapped(model)
    batches = again(batches)
    names = list(members_of(lean))
    wanted = _statistics(model, names, batches)
    changed = []
    for name in first_calls(lean, names, batches):
        layer = lean.get_submodule(name)
        op = layer.op if isinstance(layer, PointwiseLinear) else layer
        if name in wanted and isinstance(op, ConvOp) and _repair_(op, name, lean, wanted[name], batches):
            changed.append(name)
    return changed


def _repair_(op: ConvOp, name: str, lean: nn.Module, wanted: tuple[Tensor, Tensor], batches: Iterable[Any]) -> bool:
    """Correct one operator; False if it has neither outputs that can be scaled nor a bias."""
    mean, var = _statistics(lean, [name], batches)[name]
    scale = torch.where(var > 0, (wanted[1] / var.clamp(min=1e-30)).sqrt(), 1.0)
    weight = next(op.parameters(), mean)
    scaled = op.rescale_(scale.to(weight))
    if scaled:  # where filters are shared, the scale is not exactly `scale`
        mean, _ = _statistics(lean, [name], batches)[name]
    return op.shift_((wanted[0] - mean).to(weight)) or scaled


def _statistics(network: nn.Module, names: Sequence[str], batches: Iterable[Any]) -> dict[str, tuple[Tensor, Tensor]]:
    """Mean and variance of each output channel of some layers, in float64."""
    sums = {name: InputSums() for name in names}

    def counted(name: str) -> Any:
        layer = network.get_submodule(name)
        last = not hasattr(layer, "kernel_size")  # a linear layer has its channels in the last dimension

        def hook(_: nn.Module, __: Any, out: Tensor) -> None:
            sums[name](layer, (out.reshape(-1, out.shape[-1]) if last else out.reshape(-1, *out.shape[-3:]),))

        return layer.register_forward_hook(hook)

    handles = [counted(name) for name in names]
    try:
        run(network, batches)
    finally:
        for handle in handles:
            handle.remove()
    return {name: found.statistics() for name, found in sums.items() if found.count}
