"""Channels that the other channels can replace: the error of what reads them, after its other weights are fitted again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from leanconv.conversion.channel_plan import ChannelPlan, apply_channels_, indices
from leanconv.conversion.channels import ChannelSet
from leanconv.conversion.moments import MEMORY, again, bytes_of, collect, first_calls, in_rounds
from leanconv.conversion.targets import paired
from leanconv.core.copying import copied
from leanconv.core.linear import pointwise
from leanconv.core.moments import Moments, solved
from leanconv.core.spec import ConvSpec
from leanconv.search.readers import error_of_any, errors_without, input_dim, reader_of

ROUNDS = 32  # in which the channels of a set are removed; the weights are fitted again after each


@torch.no_grad()
def reconstruction_scores(model: nn.Module, sets: Sequence[ChannelSet], batches: Iterable[Any]) -> dict[str, Tensor]:
    """For each channel of a set, the error that its removal adds; the channels with the least errors go first.

    A layer that reads the set has the weights W, unfolded inputs with the moments M = E[u uᵀ], and H = M⁻¹. If the channels c are
    removed and the other weights are fitted to the old output by least squares, the squared error grows by

        tr(W_c (H_cc)⁻¹ W_cᵀ),   and W <- W - W_c (H_cc)⁻¹ H_c,   H <- H - H_cᵀ (H_cc)⁻¹ H_c.

    The error of a set is the sum over the layers that read it, each in units of the energy E||W u||² of its output. In each of 32
    rounds the channels with the least errors are removed together, and each gets an equal part of the added error as its
    score, at least the score of the round before. So scores of different sets compare, and their sum is the error of a removal.
    A layer with groups, or one that is no nn.Conv2d, is not fitted again: its error is tr(W_c M_cc W_cᵀ).

    Args:
        model: the network.
        sets: the sets to score.
        batches: inputs, or pairs (inputs, anything), as in `leanconv.convert`.

    Returns:
        {set: (size)}; the channels of the last round, which cannot all go, have an infinite score.

    Source: Hassibi and Stork 1993, "Optimal Brain Surgeon"; for structures, Kurtic et al. 2023, "ZipLM".
    """
    batches = again(batches)
    found: dict[str, Tensor] = {}
    read_by = {one.name: _readers(model, one) for one in sets}
    beside = {one.name: _others(model, one) for one in sets}
    names = dict.fromkeys(f"{name}.weight" for others in beside.values() for name in others)
    errors = errors_without(model, names, batches, error_of_any)

    def size(one: ChannelSet) -> int:
        return sum(bytes_of(model.get_submodule(name)) for name in read_by[one.name])

    for some in in_rounds(sets, size, MEMORY):
        seen = collect(model, dict.fromkeys(name for one in some for name in read_by[one.name]), batches)
        for one in some:
            positions = read_by[one.name]
            readers = [
                _Reader.of(model.get_submodule(name), seen[name], positions[name]) for name in positions if name in seen
            ]
            for name, places in beside[one.name].items():
                if f"{name}.weight" in errors:
                    readers.append(_Reader.unfitted(errors[f"{name}.weight"][places].sum(1)))
            found[one.name] = _scores(one.size, readers)
    return found


def _readers(model: nn.Module, found: ChannelSet) -> dict[str, Tensor]:
    """The layers that read a set, with the input positions of each channel: (size, positions)."""
    layers = {}
    for place in found.places:
        reads = place.dim == 1 and place.tensor in found.reads
        if reads and isinstance(model.get_submodule(place.layer), nn.Conv2d | nn.Linear):
            layers[place.layer] = torch.tensor(place.index).reshape(found.size, -1)
    return layers


def _others(model: nn.Module, found: ChannelSet) -> dict[str, Tensor]:
    """The convolutions that read a set and are no nn.Conv2d, with the input positions of each channel."""
    layers = {}
    for place in found.places:
        layer = reader_of(model, place.tensor) if place.tensor in found.reads else None
        if layer is not None and not isinstance(layer, nn.Conv2d | nn.Linear) and place.dim == input_dim(layer):
            layers[place.layer] = torch.tensor(place.index).reshape(found.size, -1)
    return layers


@dataclass
class _Reader:
    """A layer that reads a set, while channels are removed.

    Args:
        weight: W, (O, F), which changes.
        inverse: H, (F, F), which changes.
        own: the columns of each channel, (size, m).
        energy: E||W u||² before any removal.
        plain: for a layer with groups, the error of each channel without a fit, (size); `inverse` is then not used.
    """

    weight: Tensor
    inverse: Tensor
    own: Tensor
    energy: float
    plain: Tensor | None = None

    @classmethod
    def of(cls, layer: Any, moments: Moments, positions: Tensor) -> _Reader:
        energy = max(float(moments.error(layer.weight)), 1e-30)
        weight = layer.weight.detach().flatten(1).double().clone()  # it changes
        own = _columns(layer, positions).to(weight.device)
        if getattr(layer, "groups", 1) > 1:
            plain = _without_fit(layer, moments)[positions].sum(1)
            return cls(weight, weight, own, energy, plain)
        return cls(weight, torch.linalg.inv(moments.metric(layer.bias is not None)[0]), own, energy)

    @classmethod
    def unfitted(cls, errors: Tensor) -> _Reader:
        """A layer whose channels have these errors, in units of the energy of its output."""
        nothing = torch.zeros(0)
        return cls(nothing, nothing, nothing, 1.0, errors)

    def errors(self, channels: Tensor) -> Tensor:
        """The error that the removal of one channel adds, for each of `channels`."""
        if self.plain is not None:
            return self.plain[channels] / self.energy
        own = self.own[channels]
        blocks = self.inverse[own[:, :, None], own[:, None, :]]
        weight = self.weight[:, own].transpose(0, 1)  # (channels, O, m)
        return (torch.linalg.solve(blocks, weight, left=False) * weight).sum((1, 2)).cpu() / self.energy

    def remove(self, channels: Tensor) -> float:
        """Remove channels together, and fit the other weights; returns the error that this adds."""
        if self.plain is not None:
            return float(self.errors(channels).sum())
        own = self.own[channels].flatten()
        rows, weight = self.inverse[own], self.weight[:, own]
        part = torch.linalg.solve(rows[:, own], weight, left=False)  # W_c (H_cc)⁻¹
        added = float((part * weight).sum()) / self.energy
        self.weight -= part @ rows
        self.inverse -= rows.T @ torch.linalg.solve(rows[:, own], rows)
        return max(added, 0.0)


def _columns(layer: Any, positions: Tensor) -> Tensor:
    """The columns of a weight as matrix (O, F) that read channels at some input positions: (..., positions * k)."""
    taps = layer.weight[0, 0].numel()
    return (positions[..., None] * taps + torch.arange(taps)).flatten(-2)


def _without_fit(layer: nn.Conv2d, moments: Moments) -> Tensor:
    """tr(W_c M_cc W_cᵀ) for each input channel c of a convolution with groups."""
    weight = layer.weight.detach().double().flatten(2).unflatten(0, (layer.groups, -1))  # (g, O / g, I / g, k)
    each, taps = weight.shape[2:]
    second = moments.second.double().unflatten(2, (each, taps)).unflatten(1, (each, taps))
    blocks = second.diagonal(dim1=1, dim2=3)  # (g, k, k, I / g)
    return torch.einsum("goik,gkli,goil->gi", weight, blocks, weight).flatten().cpu()


def _scores(size: int, readers: Sequence[_Reader]) -> Tensor:
    scores = torch.full((size,), float("inf"), dtype=torch.float64)
    left, each, last = torch.arange(size), max(1, size // ROUNDS), 0.0
    while len(left) > each:
        errors = torch.zeros(len(left), dtype=torch.float64)
        for reader in readers:
            errors += reader.errors(left)
        order = errors.argsort(stable=True)
        gone = left[order[:each]]
        last = max(last, sum(reader.remove(gone) for reader in readers) / each)
        scores[gone] = last
        left = left[order[each:].sort().values]
    return scores


@torch.no_grad()
def repaired(model: nn.Module, plan: ChannelPlan, batches: Iterable[Any], *, sequential: bool = False) -> nn.Module:
    """A copy of `model` to which `plan` is applied, whose layers are fitted to their old outputs by least squares.

    A convolution without groups or a linear layer that reads removed channels gets the weights W' with the least
    E||W u - W' u'||², where u' are the inputs that stay. Its bias keeps the mean of its output. Without a block, this needs the
    inputs that the network without it gives: so all layers behind the block are fitted if `sequential` is set, and none if not.

    Args:
        model: the network.
        plan: the channels and blocks that are removed.
        batches: inputs, or pairs (inputs, anything), as in `leanconv.convert`.
        sequential: u' are the inputs that the narrower network gives, whose layers before are fitted already. This is more
            exact, and takes two forward passes for each layer.
    """
    batches = again(batches)
    lean = apply_channels_(copied(model), plan)
    kept = indices(plan.selections)
    names = [name for name, layer in model.named_modules() if (f"{name}.weight", 1) in kept and _fits(layer)]
    if sequential:
        names = [*dict.fromkeys([*names, *_behind(model, plan.removed, batches)])]
    names = [name for name in names if f"{name}.weight" in lean.state_dict()]  # its block may be removed
    if sequential:
        for name in first_calls(model, names, batches) if names else ():
            seen, layer = paired(model, lean, [name], batches, 0)[name], model.get_submodule(name)
            weight = layer.get_parameter("weight")
            inputs = kept.get((f"{name}.weight", 1), torch.arange(weight.shape[1]))
            _set_(lean, name, seen.best(_reading(layer, inputs)), kept)
    else:
        for name, moments in collect(model, names, batches).items() if names else ():
            _set_(lean, name, _best(model.get_submodule(name), moments, kept[f"{name}.weight", 1]), kept)
    return lean


def _behind(model: nn.Module, blocks: Sequence[str], batches: Iterable[Any]) -> list[str]:
    """The layers that can be fitted and are called behind the first of some blocks."""
    inside = tuple(f"{block}." for block in blocks)
    names = [name for name, layer in model.named_modules() if _fits(layer)]
    called = first_calls(model, names, batches) if blocks else []
    first = next((number for number, name in enumerate(called) if name.startswith(inside)), len(called))
    return [name for name in called[first:] if not name.startswith(inside)]


def _fits(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.groups == 1)


def _reading(layer: Any, inputs: Tensor) -> nn.Conv2d:
    """A layer without the inputs that go, as a convolution."""
    conv = pointwise(layer) if isinstance(layer, nn.Linear) else layer
    made = nn.Conv2d(**{**ConvSpec.of(conv).kwargs(), "in_channels": len(inputs)}, device="meta")
    made.weight = nn.Parameter(conv.weight.detach()[:, inputs.to(conv.weight.device)], requires_grad=False)
    made.bias = conv.bias
    return made


def _best(layer: Any, moments: Moments, inputs: Tensor) -> nn.Conv2d:
    """A layer without the inputs that go, fitted to its output on the moments of all its inputs."""
    weight = layer.weight.detach().flatten(1).double()
    stay = _columns(layer, inputs).to(weight.device)
    metric = moments.metric(layer.bias is not None)[0]
    fitted = torch.zeros_like(weight)
    fitted[:, stay] = solved(weight @ metric[:, stay], metric[stay][:, stay])
    made = _reading(layer, inputs)
    made.weight.copy_(fitted[:, stay].view_as(made.weight))
    bias = moments.repaired(layer, fitted)
    if bias is not None:
        made.bias = nn.Parameter(bias, requires_grad=False)
    return made


def _set_(lean: nn.Module, name: str, made: nn.Conv2d, kept: Mapping[tuple[str, int], Tensor]) -> None:
    """Give a layer of the narrower network the weights of `made`, for the outputs that stay."""
    layer: Any = lean.get_submodule(name)
    rows = kept.get((f"{name}.weight", 0), torch.arange(len(made.weight))).to(made.weight.device)
    layer.weight.copy_(made.weight[rows].view_as(layer.weight))
    if layer.bias is not None:
        assert made.bias is not None
        layer.bias.copy_(made.bias[rows])
