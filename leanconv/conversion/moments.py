"""The moments of the inputs of layers, measured while the network runs on images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from leanconv.core.errors import DataError, LeanconvError, SettingError, first_line
from leanconv.core.meta import own_dtype
from leanconv.core.modes import evaluating, input_of
from leanconv.core.moments import Moments as Moments
from leanconv.core.shown import kind
from leanconv.core.spec import ConvSpec

MEMORY = 2**30  # bytes of second moments that are held at a time
POSITIONS = 100  # of each map; more do not change the fits of a network on 2,000 images
CHUNK = 2**24  # numbers of one unfolded input
Progress = Callable[[int, int], None]  # (layers done, all layers)
Seen = Callable[[str, Tensor, Tensor], None]  # (name, unfolded inputs (groups, n, F), outputs (groups, n, O / groups))


def collect(
    model: nn.Module,
    names: Iterable[str],
    batches: Iterable[Any],
    *,
    positions: int | None = POSITIONS,
    memory: int = MEMORY,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, Moments]:
    """The moments of the unfolded inputs of some convolutions and linear layers, over the images of `batches`.

    The network runs in eval mode. The inputs of a layer that is called several times count together. Products are computed
    in the dtype of the layer, at least float32, and are added up in float64. Layers whose second moments need more than
    `memory` bytes together are measured in several passes over `batches`.

    Args:
        model: the network.
        names: dotted names of ``nn.Conv2d`` and ``nn.Linear`` layers.
        batches: inputs of the network, (N, C, H, W) each, or pairs (inputs, anything), as a DataLoader gives them; or one
            tensor. An iterator is read into a list if several passes are needed.
        positions: the output positions that are drawn from each map without repetition, the same for all images of a batch;
            None takes all. A sample estimates the same moments.
        memory: the bound for the second moments, in bytes. A single layer may exceed it.
        seed: of the draw.
        progress: called with the number of measured layers and the number of all layers.

    Returns:
        the moments by name. A layer that was never called has no entry.

    Raises:
        SettingError: a name is no convolution or linear layer.
        DataError: there is no batch, or the inputs of a layer are not finite.

    >>> model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1))
    >>> collect(model, ["0"], [torch.randn(4, 3, 8, 8)])["0"].second.shape
    torch.Size([1, 27, 27])
    """
    layers = {name: _layer(model, name) for name in names}
    rounds = in_rounds(list(layers), lambda name: bytes_of(layers[name]), memory)
    batches = again(batches) if len(rounds) > 1 else batches
    found: dict[str, Moments] = {}
    for names_now in rounds:
        found |= measured(model, {name: layers[name] for name in names_now}, batches, positions, seed)
        if progress is not None:
            progress(len(found), len(layers))
    return found


def measured(
    model: nn.Module,
    layers: dict[str, nn.Module],
    batches: Iterable[Any],
    positions: int | None = POSITIONS,
    seed: int = 0,
) -> dict[str, Moments]:
    """The moments of the inputs of some layers in one pass of `model`, which may be one of the layers.

    Args:
        model: the network.
        layers: by the names that messages give them.
        batches, positions, seed: as in `collect`.

    Raises:
        DataError: there is no batch, or the inputs of a layer are not finite.
    """
    sums = {name: _Sums(layer) for name, layer in layers.items()}
    generator = torch.Generator().manual_seed(seed)
    with watching(layers, lambda name, unfolded, _: sums[name].add(unfolded), positions, generator):
        run(model, batches)
    return {name: _finite(name, made.moments()) for name, made in sums.items() if made.count}


def again(batches: Iterable[Any]) -> Iterable[Any]:
    """`batches`, such that it can be read several times: an iterator becomes a list."""
    return list(batches) if isinstance(batches, Iterator) else batches


def in_rounds(items: Sequence[Any], size: Callable[[Any], int], most: int) -> list[list[Any]]:
    """The items in rounds whose sizes add up to at most `most`; an item that is larger has a round of its own.

    >>> in_rounds([3, 4, 9, 1], int, 8)
    [[3, 4], [9], [1]]
    """
    rounds: list[list[Any]] = []
    left = 0
    for item in items:
        left -= size(item)
        if left < 0 or not rounds:
            rounds.append([])
            left = most - size(item)
        rounds[-1].append(item)
    return rounds


def bytes_of(layer: nn.Module) -> int:
    """The bytes of the second moments of one layer."""
    spec = _spec(layer)
    return 8 * spec.groups * spec.fan_in**2


def run(model: nn.Module, batches: Iterable[Any]) -> None:
    """Run `model` in eval mode on all inputs; the outputs are not used.

    Raises:
        DataError: there is no batch, or the network does not take one.
    """
    empty = True
    with evaluating(model), torch.no_grad():
        for batch in inputs_of(batches):
            call(model, batch)
            empty = False
    if empty:
        raise DataError("data has no batch of images (an iterator can be read only once); give a list or a DataLoader")


def first_calls(model: nn.Module, names: Sequence[str], batches: Iterable[Any]) -> list[str]:
    """The names of layers in the order of their first calls on the first batch; without the layers that are not called."""
    order: dict[str, None] = {}

    def note(name: str) -> Any:
        return lambda *_: order.update({name: None})  # a hook that returns None changes nothing

    handles = [model.get_submodule(name).register_forward_pre_hook(note(name)) for name in names]
    try:
        run(model, batches if isinstance(batches, Tensor) else islice(batches, 1))
    finally:
        for handle in handles:
            handle.remove()
    return list(order)


def inputs_of(batches: Iterable[Any]) -> Iterator[Any]:
    """The inputs of each batch: the batch itself, or the first of a pair such as (images, labels). A tensor is one batch."""
    for batch in [batches] if isinstance(batches, Tensor) else batches:
        yield batch[0] if isinstance(batch, tuple | list) else batch


def call(model: nn.Module, inputs: Any) -> Any:
    """The output of `model` for the inputs of a batch; floats get the dtype of the network's own.

    Raises:
        DataError: the network does not take the inputs.
    """
    if isinstance(inputs, Tensor) and inputs.is_floating_point():
        inputs = inputs.to(own_dtype(model, inputs.dtype))
    try:
        return model(inputs)
    except (LeanconvError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # a network raises anything for inputs that it does not take
        raise DataError(
            f"the network does not take a batch of {kind(inputs)} ({first_line(error)}); {_way_out(inputs)}"
        ) from error


def _way_out(inputs: Any) -> str:
    if isinstance(inputs, Mapping):
        images = [key for key, value in inputs.items() if getattr(value, "ndim", 0) == 4]
        return f"give its images alone, [batch[{next(iter(images), 'image')!r}] for batch in loader]"
    if isinstance(inputs, Tensor) and not inputs.is_floating_point():
        return "divide the images by 255, and normalise them as in training"
    return "give batches of images (N, C, H, W), prepared as in training"


@contextmanager
def watching(
    layers: dict[str, nn.Module],
    seen: Seen,
    positions: int | None,
    generator: torch.Generator,
) -> Iterator[None]:
    """Within the block, each call of a layer gives its unfolded inputs and its outputs at some positions to `seen`."""

    def hook(name: str) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any], Tensor], None]:
        def watch(layer: nn.Module, args: tuple[Any, ...], named: dict[str, Any], out: Tensor) -> None:
            x = input_of(args, named)
            for unfolded, outputs in unfold(_spec(layer), isinstance(layer, nn.Linear), x, out, positions, generator):
                seen(name, unfolded, outputs)

        return watch

    handles = [layer.register_forward_hook(hook(name), with_kwargs=True) for name, layer in layers.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def unfold(
    spec: ConvSpec, linear: bool, x: Tensor, out: Tensor, positions: int | None, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """The inputs under the kernel and the outputs at some positions, in parts: (groups, n, F) and (groups, n, O / groups).

    Args:
        x, out: input and output of the layer, of a convolution with or without a batch.
        positions, generator: how many positions of each map, and which.
    """
    wide = torch.promote_types(x.dtype, torch.float32)
    if x.numel() == 0:
        return
    if linear:  # all rows are the positions of one map
        x, out = x.reshape(-1, spec.in_channels).T[None, :, None], out.reshape(-1, spec.out_channels).T[None, :, None]
    elif x.dim() == 3:
        x, out = x[None], out[None]
    drawn = _drawn(out.shape[2] * out.shape[3], None if linear else positions, generator)
    if spec.padding_mode == "zeros":
        x = F.pad(x, spec.pads)
    elif any(spec.pads):
        x = F.pad(x, spec.pads, mode=spec.padding_mode)
    (kh, kw), (sh, sw), (dh, dw) = spec.kernel_size, spec.stride, spec.dilation
    width = x.shape[3]
    drawn = drawn.to(x.device)
    corner = drawn // out.shape[3] * sh * width + drawn % out.shape[3] * sw
    taps = (torch.arange(kh)[:, None] * dh * width + torch.arange(kw) * dw).flatten().to(x.device)
    flat, results = x.flatten(2), out.flatten(2)
    step = max(CHUNK // (spec.groups * spec.fan_in * len(x)), 1)
    for corners, places in zip(corner.split(step), drawn.split(step), strict=True):
        under = flat[:, :, corners[:, None] + taps].to(wide)  # (N, I, n, k)
        n, _, m, _ = under.shape
        under = under.unflatten(1, (spec.groups, -1)).permute(1, 0, 3, 2, 4).reshape(spec.groups, n * m, -1)
        here = results[:, :, places].to(wide).unflatten(1, (spec.groups, -1))
        yield under, here.permute(1, 0, 3, 2).reshape(spec.groups, n * m, -1)


def _drawn(count: int, positions: int | None, generator: torch.Generator) -> Tensor:
    if positions is None or positions >= count:
        return torch.arange(count)
    return torch.randperm(count, generator=generator)[:positions]


class _Sums:
    """The sums of u uᵀ and u of one layer."""

    def __init__(self, layer: nn.Module) -> None:
        spec, device = _spec(layer), next(layer.parameters()).device
        self.second = torch.zeros(spec.groups, spec.fan_in, spec.fan_in, dtype=torch.float64, device=device)
        self.first = torch.zeros(spec.groups, spec.fan_in, dtype=torch.float64, device=device)
        self.count = 0

    def add(self, unfolded: Tensor) -> None:
        self.second += unfolded.mT @ unfolded
        self.first += unfolded.sum(1, dtype=torch.float64)
        self.count += unfolded.shape[1]

    def moments(self) -> Moments:
        return Moments(self.second.div_(self.count), self.first.div_(self.count), self.count)


def _finite(name: str, moments: Moments) -> Moments:
    if not moments.second.isfinite().all():
        raise DataError(f"the inputs of {name!r} hold NaN or infinity; give images that the network can compute with")
    return moments


def _layer(model: nn.Module, name: str) -> nn.Module:
    try:
        layer = model.get_submodule(name)
    except AttributeError:
        raise SettingError(
            f"{type(model).__name__} has no layer {name!r}; take a name of model.named_modules()"
        ) from None
    if not isinstance(layer, nn.Conv2d | nn.Linear):
        raise SettingError(f"{name!r} is a {type(layer).__name__}, and only nn.Conv2d and nn.Linear have such moments")
    return layer


def _spec(layer: nn.Module) -> ConvSpec:
    return ConvSpec.of_linear(layer) if isinstance(layer, nn.Linear) else ConvSpec.of(layer)  # type: ignore[arg-type]
