"""The layers that read a set of channels, and the error of their outputs without one channel."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.conv import _ConvNd

from leanconv.conversion.channels import ChannelGraph, ChannelSet
from leanconv.conversion.moments import call, inputs_of
from leanconv.conversion.sites import run_of
from leanconv.core.modes import evaluating, input_of

MEASURED = ("activation", "reconstruction")  # the criteria that look at the layers that read a channel
CONVOLUTIONS = {
    (1, False): F.conv1d, (2, False): F.conv2d, (3, False): F.conv3d,
    (1, True): F.conv_transpose1d, (2, True): F.conv_transpose2d, (3, True): F.conv_transpose3d,
}  # fmt: skip


def reader_of(model: nn.Module, tensor: str) -> Any:
    """The layer that computes with a weight, if its outputs can be measured; None for other weights."""
    name, _, own = tensor.rpartition(".")
    layer = model.get_submodule(name)
    return layer if own == "weight" and isinstance(layer, _ConvNd | nn.Linear) else None


def input_dim(layer: nn.Module) -> int:
    """The dimension of a layer's weight along which its inputs lie."""
    return 0 if isinstance(layer, _ConvNd) and layer.transposed else 1


def measurable(model: nn.Module, graph: ChannelGraph) -> ChannelGraph:
    """The graph, in which a set stays whole if the outputs of something that reads it cannot be measured."""
    layers = {tensor: reader_of(model, tensor) for found in graph.sets for tensor in found.reads}
    names = [tensor.rpartition(".")[0] for tensor, layer in layers.items() if layer is not None]
    run = run_of(model, names, graph.input_size)
    seen = {f"{name}.weight" for name in names if name in run.sizes and name not in run.read}

    def checked(found: ChannelSet) -> ChannelSet:
        others = [tensor for tensor in found.reads if tensor not in seen]
        if found.whole is not None or not others:
            return found
        return replace(found, whole=f"{others[0]!r} reads it, and no call of a layer, whose outputs could be measured")

    return replace(graph, sets=tuple(map(checked, graph.sets)))


@torch.no_grad()
def errors_without(
    model: nn.Module, tensors: Iterable[str], batches: Iterable[Any], error: Callable[..., tuple[Tensor, float]]
) -> dict[str, Tensor]:
    """For each weight of a layer, the error of the layer's output without each input channel, in units of its energy.

    Args:
        model: the network.
        tensors: names of weights.
        batches: inputs, or pairs (inputs, anything).
        error: returns, for a layer, an input and the output, the error of each channel and the energy of the output.
    """
    errors: dict[str, Tensor] = {}
    energy: dict[str, float] = {}

    def hook(name: str) -> Callable[..., None]:
        def note(layer: Any, args: tuple[Tensor, ...], named: dict[str, Tensor], out: Tensor) -> None:
            found, whole = error(layer, input_of(args, named), out)
            errors[name] = errors.get(name, torch.zeros(())) + found
            energy[name] = energy.get(name, 0.0) + whole

        return note

    handles = []
    try:
        for tensor in tensors:
            layer = reader_of(model, tensor)
            if layer is not None:
                handles.append(layer.register_forward_hook(hook(tensor), with_kwargs=True))
        with evaluating(model):
            for images in inputs_of(batches) if handles else ():
                call(model, images)
    finally:
        for handle in handles:
            handle.remove()
    return {name: errors[name] / max(energy[name], 1e-30) for name in errors}


def error_of_any(layer: _ConvNd, x: Tensor, out: Tensor) -> tuple[Tensor, float]:
    """For each input channel of any convolution, the sum of squares of what it alone gives; and that of the whole output."""
    dims = layer.weight.dim() - 2
    x, out = (tensor.unsqueeze(0) if tensor.dim() == dims + 1 else tensor for tensor in (x, out))
    convolve: Any = CONVOLUTIONS[dims, layer.transposed]
    each = x.shape[1] // layer.groups
    settings: dict[str, Any] = {"stride": layer.stride, "dilation": layer.dilation, "padding": layer.padding}
    if layer.transposed:
        settings["output_padding"] = _output_padding(layer, x, out)
    elif layer.padding_mode != "zeros":
        x, settings["padding"] = F.pad(x, layer._reversed_padding_repeated_twice, mode=layer.padding_mode), 0
    rows = layer.out_channels // layer.groups
    found = torch.zeros(x.shape[1], dtype=torch.float64)
    for channel in range(x.shape[1]):
        group = channel // each
        if layer.transposed:
            own = layer.weight[channel : channel + 1]
        else:
            own = layer.weight[group * rows : (group + 1) * rows, channel % each, None]
        found[channel] = convolve(x[:, channel : channel + 1], own, **settings).double().square().sum()
    plain = out if layer.bias is None else out - layer.bias.view(-1, *[1] * dims)
    return found, float(plain.double().square().sum())


def _output_padding(layer: _ConvNd, x: Tensor, out: Tensor) -> Sequence[int]:
    """The output padding of one call, which may have been given another output size."""
    found = []
    padding: Any = layer.padding  # no text, for a transposed convolution
    for dim, (stride, dilation) in enumerate(zip(layer.stride, layer.dilation, strict=True)):
        least = (x.shape[2 + dim] - 1) * stride - 2 * padding[dim] + dilation * (layer.kernel_size[dim] - 1) + 1
        found.append(out.shape[2 + dim] - least)
    return found
