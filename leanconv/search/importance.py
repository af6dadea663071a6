"""How much each channel of a set matters: by its weights, by a loss, or by what the layers behind it read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, unfold

from leanconv.conversion.channels import ChannelSet
from leanconv.conversion.moments import call
from leanconv.core.copying import refuse_meta
from leanconv.core.errors import DataError, SettingError, first_line
from leanconv.core.settings import check_choice
from leanconv.core.shown import kind
from leanconv.search.readers import error_of_any, errors_without, input_dim, reader_of
from leanconv.search.reconstruction import reconstruction_scores

Criterion = Literal["magnitude", "random", "first", "taylor", "activation", "reconstruction"]
Batches = Iterable[Any]
NEEDS_DATA = ("taylor", "activation", "reconstruction")


def channel_scores(
    model: nn.Module,
    sets: Sequence[ChannelSet],
    criterion: Criterion = "magnitude",
    data: Batches | None = None,
    *,
    seed: int = 0,
) -> dict[str, Tensor]:
    """{set: a score for each of its channels}; the channels with the least scores matter least.

    - ``"magnitude"``: the norm of all weights that make or read the channel, sqrt(sum w^2).
    - ``"random"``: uniform numbers of `seed`.
    - ``"first"``: the first channels matter most. It is for networks whose weights are made anew.
    - ``"taylor"``: sum over batches of (sum w dL/dw)^2 over the weights that make the channel, L the cross-entropy.
    - ``"activation"``: the error of the outputs of the layers that read the channel, if it alone is removed and nothing is
      trained: sum over layers of E|W_c u_c|^2 / E|W u|^2, with u the unfolded input and u_c the part of channel c. So it is
      the trace of W_c S_cc W_c^T with S = E u u^T.
    - ``"reconstruction"``: the same error after the other weights of these layers are fitted again, see
      `leanconv.search.reconstruction.reconstruction_scores`.

    Args:
        model: the network, in eval mode while it runs.
        sets: the sets to score.
        data: for ``"taylor"`` batches ``(images, labels)``; for ``"activation"`` and ``"reconstruction"`` the same, or images
            alone.

    Raises:
        SettingError: the criterion is unknown, or needs data and there is none.
        DataError: the network does not take a batch, or the criterion needs labels and a batch has none.

    Source: magnitude over all coupled weights, Fang et al. 2023, "DepGraph"; Taylor, Molchanov et al. 2019, eq. 8.
    """
    check_choice("criterion", criterion, get_args(Criterion))
    if criterion in NEEDS_DATA and data is None:
        images = "(images, labels)" if criterion == "taylor" else "images, or of (images, labels)"
        raise SettingError(f"criterion={criterion!r} needs data: batches of {images}")
    tensors = dict(model.named_parameters(remove_duplicate=False))
    if criterion == "random":
        generator = torch.Generator().manual_seed(seed)
        return {found.name: torch.rand(found.size, generator=generator) for found in sets}
    if criterion == "first":
        return {found.name: -torch.arange(found.size, dtype=torch.float32) for found in sets}
    refuse_meta(model)
    if criterion == "magnitude":
        squares = {name: tensor.detach().square() for name, tensor in tensors.items()}
        return {found.name: _sum(model, squares, found, (*found.makes, *found.reads)).sqrt() for found in sets}
    assert data is not None
    if criterion == "reconstruction":
        return reconstruction_scores(model, sets, data)
    return _taylor(model, tensors, sets, data) if criterion == "taylor" else _activation(model, sets, data)


def _sum(model: nn.Module, values: dict[str, Tensor], found: ChannelSet, names: Sequence[str]) -> Tensor:
    """For each channel, the sum of the values at all places of the named tensors."""
    total = torch.zeros(found.size, dtype=torch.float64)
    for place in found.places:
        if place.tensor in names:
            each = _by_channel(values[place.tensor], place.dim, place.size)
            total += each[list(place.index)].reshape(found.size, -1).sum(1)
    return total


def _by_channel(values: Tensor, dim: int, size: int) -> Tensor:
    """The sum over everything but dimension `dim`; in dimension 1 of a grouped weight, over the filters of each group."""
    values = values.double().cpu()
    if values.shape[dim] == size:
        return values.movedim(dim, 0).flatten(1).sum(1)
    groups = size // values.shape[1]
    return values.unflatten(0, (groups, -1)).flatten(3).sum((1, 3)).flatten()


def _taylor(
    model: nn.Module, tensors: dict[str, nn.Parameter], sets: Sequence[ChannelSet], data: Batches
) -> dict[str, Tensor]:
    names = sorted({name for found in sets for name in found.makes})
    total = {found.name: torch.zeros(found.size, dtype=torch.float64) for found in sets}
    parameters = [tensors[name] for name in names]
    flags = [parameter.requires_grad for parameter in parameters]
    with _in_eval(model), torch.enable_grad():
        try:
            for parameter in parameters:
                parameter.requires_grad_()
            for images, labels in _labelled(data):
                with _called(model, names) as called:
                    loss = _loss(_classes(call(model, images)), labels)
                gradients = _gradients(loss, dict(zip(names, parameters, strict=True)), called)
                products = {n: p.detach() * g for n, p, g in zip(names, parameters, gradients, strict=True)}
                for found in sets:
                    total[found.name] += _sum(model, products, found, found.makes).square()
        finally:
            for parameter, flag in zip(parameters, flags, strict=True):
                parameter.requires_grad_(flag)
    return total


@contextmanager
def _called(model: nn.Module, names: Sequence[str]) -> Iterator[set[str]]:
    """The weights among `names` whose modules are called within the block; one that no module owns by itself counts too."""
    called = {name for name in names if "." not in name}
    handles = [
        model.get_submodule(name.rpartition(".")[0]).register_forward_pre_hook(lambda *_, name=name: called.add(name))
        for name in names
        if "." in name
    ]
    try:
        yield called
    finally:
        for handle in handles:
            handle.remove()


def _gradients(loss: Tensor, parameters: dict[str, nn.Parameter], called: set[str]) -> list[Tensor]:
    """The gradients of the loss; zeros for a weight that this forward pass does not use."""
    found: Sequence[Tensor | None] = [None] * len(parameters)
    if loss.requires_grad:
        found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    without = [name for name, gradient in zip(parameters, found, strict=True) if gradient is None and name in called]
    if without:
        raise SettingError(
            f"criterion='taylor': the loss has no gradient for {without[0]!r}, which the network uses, perhaps under no_grad; "
            "use 'activation' or 'reconstruction', which need no gradients"
        )
    pairs = zip(parameters.values(), found, strict=True)
    return [torch.zeros_like(parameter) if gradient is None else gradient for parameter, gradient in pairs]


def _labelled(data: Batches) -> Iterator[tuple[Any, Tensor]]:
    for batch in [data] if isinstance(data, Tensor) else data:
        if not isinstance(batch, tuple | list) or len(batch) != 2 or not isinstance(batch[1], Tensor):
            raise DataError(
                f"criterion='taylor' needs labels, and a batch is {kind(batch)}: give batches of (images, labels), or take "
                "'activation' or 'reconstruction', which need images alone"
            )
        yield batch[0], batch[1]


def _loss(out: Tensor, labels: Tensor) -> Tensor:
    try:
        return cross_entropy(out, labels)
    except (RuntimeError, ValueError, IndexError) as error:
        raise DataError(
            f"criterion='taylor': labels of {kind(labels)} do not fit outputs of {kind(out)} ({first_line(error)}); give "
            "the number of its class for each image"
        ) from error


def _classes(out: object) -> Tensor:
    if not isinstance(out, Tensor) or out.dim() < 2:
        found = f"shape {tuple(out.shape)}" if isinstance(out, Tensor) else f"a {type(out).__name__}"
        raise SettingError(
            f"criterion='taylor' needs one tensor of class scores, (N, classes), and the network gives {found}; use "
            "'activation' or 'reconstruction', which look at layers"
        )
    return out


def _activation(model: nn.Module, sets: Sequence[ChannelSet], data: Batches) -> dict[str, Tensor]:
    names = dict.fromkeys(name for found in sets for name in found.reads)
    errors = errors_without(model, names, data, _error_by_channel)
    layers = {name: reader_of(model, name) for name in errors}
    scores = {}
    for found in sets:
        total = torch.zeros(found.size, dtype=torch.float64)
        for place in found.places:
            if place.tensor in errors and place.tensor in found.reads and place.dim == input_dim(layers[place.tensor]):
                total += errors[place.tensor][list(place.index)].reshape(found.size, -1).sum(1)
        scores[found.name] = total
    return scores


def _error_by_channel(layer: Any, x: Tensor, out: Tensor) -> tuple[Tensor, float]:
    """For each input channel c, the sum of |W_c u_c|^2 over images and positions; and that of the whole output."""
    if not isinstance(layer, nn.Linear) and (not isinstance(layer, nn.Conv2d) or x.dim() == 3):
        return error_of_any(layer, x, out)
    weight, bias = layer.weight.double(), layer.bias
    if isinstance(layer, nn.Linear):
        energy = x.reshape(-1, x.shape[-1]).double().square().sum(0)
        plain = out.reshape(-1, out.shape[-1]) - (0 if bias is None else bias)
        return (weight.square().sum(0) * energy).cpu(), float(plain.double().square().sum())
    moments: Tensor | None = None
    pads = layer._reversed_padding_repeated_twice
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    for images in x.split(8):  # an unfolded batch takes k times the memory
        padded = nn.functional.pad(images, pads, mode=mode)
        if padded.dtype not in (torch.float32, torch.float64):
            padded = padded.float()
        u = unfold(padded, layer.kernel_size, layer.dilation, 0, layer.stride).unflatten(1, (x.shape[1], -1))
        u = u.permute(1, 2, 0, 3).flatten(2)  # (I, k, images and positions)
        part = (u @ u.transpose(1, 2)).double()
        moments = part if moments is None else moments + part
    assert moments is not None
    own = weight.unflatten(0, (layer.groups, -1)).transpose(1, 2).flatten(0, 1).flatten(2)  # (I, O / g, k)
    plain = out - (0 if bias is None else bias[:, None, None])
    return torch.einsum("iok,ikl,iol->i", own, moments, own).cpu(), float(plain.double().square().sum())


@contextmanager
def _in_eval(model: nn.Module) -> Iterator[None]:
    training = {module: module.training for module in model.modules()}
    try:
        model.eval()
        yield
    finally:
        for module, flag in training.items():
            module.training = flag
