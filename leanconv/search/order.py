"""Channel order: which channels form the blocks of tied, grouped and split operators, chosen before a network is converted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import Tensor, nn

from leanconv.conversion.channel_plan import ChannelPlan, Selection, apply_channels_, indices
from leanconv.conversion.channels import ChannelSet, Place, channel_graph
from leanconv.conversion.plan import Plan
from leanconv.core.errors import SettingError
from leanconv.core.meta import InputSize
from leanconv.core.settings import check_int
from leanconv.core.wrappers import unwrapped

Orders = dict[str, tuple[int, ...]]
SWEEPS = 30  # passes over all sets; the error falls with each, and most plans settle in under ten


class SecondMoments(Protocol):
    """The part of a layer's moments that the choice reads."""

    @property
    def second(self) -> Tensor:
        """E u u^T of the unfolded input u, (groups, F, F)."""
        ...


def permute_channels_(
    model: nn.Module, orders: Mapping[str, Sequence[int]], input_size: InputSize | None = None
) -> nn.Module:
    """Change the order of channels in place; the network computes the same, to rounding. `model` itself is returned.

    Args:
        orders: {set: order}, where channel i of the set becomes the old channel ``order[i]``; `leanconv.channel_graph` lists
            the sets.
        input_size: (channels, height, width); default: the input size of the model, if the model states it.

    Raises:
        SettingError: a name is no set, or an order is no permutation of its channels that keeps its cells.

    >>> import leanconv as lc
    >>> import torch
    >>> model = lc.create_model("resnet20").eval()
    >>> x = torch.randn(1, 3, 32, 32)
    >>> before = model(x)
    >>> same = permute_channels_(model, {"layer1.0.conv1": [*range(8, 16), *range(8)]})(x)
    >>> torch.allclose(before, same, atol=1e-5)
    True
    """
    graph = channel_graph(model, input_size)
    for name, order in orders.items():
        if sorted(order) != list(range(graph.of(name).size)):
            raise SettingError(f"orders[{name!r}] must hold each of 0..{graph.of(name).size - 1} once")
    return apply_channels_(
        model, ChannelPlan(tuple(Selection(graph.of(name), tuple(order)) for name, order in orders.items()))
    )


def choose_orders(
    model: nn.Module,
    plan: Plan,
    stats: Mapping[str, SecondMoments] | None = None,
    *,
    starts: int = 3,
    seed: int = 0,
    input_size: InputSize | None = None,
) -> Orders:
    """The orders of channels with which the layers of `plan` lose least when they are converted.

    For each layer the loss is the share of its weights' energy sum E_ik W_oik^2 that the fitted form does not hold, with E_ik
    the second moment of input i at tap k (1 without `stats`):

    - Tied blocks: what differs from the weighted mean of the diagonal blocks, and the blocks beside the diagonal.
    - Groups: the blocks beside the diagonal.
    - Split: the taps beside the centre of the redundant channels, which keep a 1x1 convolution.

    Other methods take part by `Method.channel_form`.

    The sum over layers is lowered set by set: with all other orders fixed, the gain of channel j at position p is a matrix,
    and the best order is an assignment problem, solved exactly; within the blocks where a layer is tied, because a block is
    compared with the mean of the others. It ends where no set improves. It starts from the present order, from the order of
    the second eigenvector of the channels' affinity (channels that the same filters use lie together), and from random ones;
    the best end is returned, so the loss is never above that of the present order.

    Args:
        model: the dense network.
        plan: its plan. Layers of other methods, and grouped convolutions, have no say.
        stats: {layer: moments of its input}, as `leanconv.conversion.moments.collect` returns them.
        starts: random starts beside the two others.

    Returns:
        {set: order} for `permute_channels_`, of the sets whose order changes. Plan the permuted network again only if the
        plan depends on weights; layer names and shapes stay.

    Source: the assignment step is that of weight matching, Ainsworth et al. 2023, "Git Re-Basin"; grouping by it is ours.
    """
    check_int("starts", starts, 0)
    model = unwrapped(model)
    graph = channel_graph(model, input_size if input_size is not None else plan.input_size)
    layers = _layers(model, plan, stats or {})
    tensors = {layer.tensor for layer in layers}
    sets = [found for found in graph.sets if any(place.tensor in tensors for place in found.places)]
    generator = np.random.default_rng(seed)
    best: Orders = {found.name: tuple(range(found.size)) for found in sets}
    least = float("inf")
    for start in range(starts + 2):
        orders = {found.name: _start(found, layers, generator, start) for found in sets}
        loss = _descend(layers, sets, orders)
        if loss < least - 1e-9:
            best, least = orders, loss
    return {name: order for name, order in best.items() if order != tuple(range(len(order)))}


def order_loss(model: nn.Module, plan: Plan, stats: Mapping[str, SecondMoments] | None = None) -> dict[str, float]:
    """{layer: the share of its energy that its form does not hold}, in the present order; see `choose_orders`."""
    layers = _layers(unwrapped(model), plan, stats or {})
    every = {(layer.tensor, dim): np.arange(layer.weight.shape[dim]) for layer in layers for dim in (0, 1)}
    return {layer.tensor.removesuffix(".weight"): layer.loss(every) for layer in layers}


Content = Mapping[tuple[str, int], np.ndarray]  # of each dimension of a tensor: the channel at each position


@dataclass(frozen=True)
class _Layer:
    """One layer of the plan: what it loses in an order, and what a channel gains at a position.

    Args:
        tensor: the name of its weight.
        weight: (O, I, K), the dense weight.
        energy: (I, K), the second moments of the inputs, divided by the energy of the whole layer.
        blocks: the blocks of channels; 1 for a split layer.
        tied: whether the blocks share their weights.
        rest: for a split layer the first channel that is redundant, and which taps it loses.
    """

    tensor: str
    weight: np.ndarray
    energy: np.ndarray
    blocks: int
    tied: bool = False
    rest: tuple[int, np.ndarray] | None = None

    def _blocked(self, content: Content) -> tuple[np.ndarray, np.ndarray]:
        """The weight and the energy as (B, O / B, B, I / B, K) and (B, I / B, K), in an order."""
        outs, ins = content.get((self.tensor, 0)), content.get((self.tensor, 1))
        weight = self.weight if outs is None else self.weight[outs]
        weight, energy = (weight, self.energy) if ins is None else (weight[:, ins], self.energy[ins])
        b, k = self.blocks, self.weight.shape[2]
        return weight.reshape(b, len(weight) // b, b, -1, k), energy.reshape(b, -1, k)

    def _shared(self, content: Content, without: int | None = None) -> np.ndarray:
        """T, the weighted mean of the diagonal blocks, or of all `without` one, (O / B, I / B, K)."""
        weight, energy = self._blocked(content)
        blocks = [b for b in range(self.blocks) if b != without]
        total = energy[blocks].sum(0)
        return sum(weight[b, :, b] * energy[b] for b in blocks) / np.where(total > 0, total, 1)

    def loss(self, content: Content) -> float:
        """The share of the layer's energy that is lost."""
        weight, energy = self._blocked(content)
        if self.rest is not None:
            first, taps = self.rest
            return float((weight[0, :, 0, first:] ** 2 * energy[0, first:] * taps).sum())
        kept = 0.0
        shared = self._shared(content) if self.tied else None
        for b in range(self.blocks):
            block = weight[b, :, b]
            held = block**2 if shared is None else shared * (2 * block - shared)
            kept += float((held * energy[b]).sum())
        return float((self.weight**2 * self.energy).sum()) - kept

    def block_of(self, dim: int) -> np.ndarray:
        """The block of each position of dimension `dim`; for a split layer the representative channels are block 0."""
        n = self.weight.shape[dim]
        if self.rest is not None:
            return np.arange(n) >= self.rest[0] if dim == 1 else np.zeros(n, dtype=int)
        return np.arange(n) // (n // self.blocks)

    def gains(self, content: Content, dim: int) -> np.ndarray:
        """(n, n): what the channel j of dimension `dim` holds at position p, with the rest of the order fixed.

        For tied blocks it is the product with the mean of the other blocks, so it tells the best order within each block.
        """
        outs = content.get((self.tensor, 0), np.arange(self.weight.shape[0]))
        ins = content.get((self.tensor, 1), np.arange(self.weight.shape[1]))
        n = self.weight.shape[dim]
        if self.rest is not None:
            held = np.zeros((n, n))
            if dim == 1:
                held[: self.rest[0]] = ((self.weight**2).sum(0) * self.energy * self.rest[1]).sum(1)
            return held
        lines = []
        for b in range(self.blocks):
            shared = self._shared(content, b) if self.tied else None
            rows = self.weight[outs.reshape(self.blocks, -1)[b]] if dim == 1 else self.weight  # (O / B or O, I, K)
            columns = ins.reshape(self.blocks, -1)[b] if dim == 0 else np.arange(len(ins))
            block = rows[:, columns] * self.energy[columns]
            if shared is None:
                line = (block * rows[:, columns]).sum(2).sum(0 if dim == 1 else 1)
                lines.append(np.broadcast_to(line, (n // self.blocks, n)))
            else:
                sums = "qik,qrk->ri" if dim == 1 else "ork,qrk->qo"
                lines.append(2 * (self.blocks - 1) / self.blocks * np.einsum(sums, block, shared, optimize=True))
        return np.concatenate(lines)


def _layers(model: nn.Module, plan: Plan, stats: Mapping[str, SecondMoments]) -> list[_Layer]:
    found = []
    for group in plan.groups:
        for site in group.sites:
            form = group.method.channel_form(site.spec)
            if form is None or site.spec.groups != 1:
                continue
            weight: Tensor = model.get_submodule(site.name).weight  # type: ignore[assignment]
            dense = weight.detach().double().reshape(*weight.shape[:2], -1).cpu().numpy()
            energy = np.ones(dense.shape[1:])
            if site.name in stats:
                energy = stats[site.name].second.diagonal(dim1=-2, dim2=-1).double().cpu().numpy().reshape(energy.shape)
            energy = energy / max((dense**2 * energy).sum(), 1e-300)
            rest = None
            if form.redundant_from is not None:
                taps = np.ones(dense.shape[2])
                taps[dense.shape[2] // 2] = 0
                rest = form.redundant_from, taps
            found.append(_Layer(f"{site.name}.weight", dense, energy, form.blocks, form.tied, rest))
    return found


def _start(found: ChannelSet, layers: Sequence[_Layer], generator: np.random.Generator, number: int) -> tuple[int, ...]:
    """The order to start with: the present one, one by affinity, then random ones; each keeps the cells."""
    if number == 0:
        return tuple(range(found.size))
    rank = _affine(found, layers) if number == 1 else generator.random(found.size)
    cells = np.array(found.cells or (0,) * found.size)
    order = np.arange(found.size)
    for cell in np.unique(cells):
        members = np.flatnonzero(cells == cell)
        order[members] = members[np.argsort(rank[members], kind="stable")]
    return tuple(order.tolist())


def _affine(found: ChannelSet, layers: Sequence[_Layer]) -> np.ndarray:
    """The place of each channel on a line where channels that the same filters use, or that use the same inputs, are near.

    It is the second eigenvector of the normalised affinity, sum over layers of M^T M, with M the energies between the
    channels and the filters (Dhillon 2001, co-clustering).
    """
    affinity = np.zeros((found.size, found.size))
    for layer in layers:
        energy = (layer.weight**2 * layer.energy).sum(2)
        for place in found.places:
            if place.tensor == layer.tensor and place.dim < 2:
                channels = (energy if place.dim == 0 else energy.T)[list(place.index)]
                channels = channels.reshape(found.size, -1) + 1e-12
                normal = channels / np.sqrt(channels.sum(1, keepdims=True) * channels.sum(0))
                affinity += normal @ normal.T
    root = np.sqrt(affinity.sum(1)) + 1e-12
    _, vectors = np.linalg.eigh(affinity / np.outer(root, root))
    return vectors[:, -2 if found.size > 1 else -1] / root


def _descend(layers: Sequence[_Layer], sets: Sequence[ChannelSet], orders: Orders) -> float:
    """Improve the orders in place, set by set, until none improves; returns the sum of the losses."""
    by_tensor = {layer.tensor: layer for layer in layers}

    def content() -> dict[tuple[str, int], np.ndarray]:
        kept = [Selection(found, orders[found.name]) for found in sets]
        return {axis: index.numpy() for axis, index in indices(kept).items() if axis[0] in by_tensor}

    now = content()
    loss = sum(layer.loss(now) for layer in layers)
    for _ in range(SWEEPS):
        before = loss
        for found in sets:
            own = [(by_tensor[place.tensor], place) for place in found.places if place.tensor in by_tensor]
            for members in _movable(found, own):
                gains = np.zeros((found.size, found.size))
                for layer, place in own:
                    gains += _at_slots(layer.gains(now, place.dim), place, found.size)
                old = orders[found.name]
                orders[found.name] = _assigned(old, gains, members)
                new = content()
                after = sum(layer.loss(new) for layer in layers)
                if after < loss - 1e-12:
                    now, loss = new, after
                else:  # weighted means, and layers that read and make one set, are only nearly what the matrix says
                    orders[found.name] = old
        if before - loss < 1e-6:
            break
    return loss


def _movable(found: ChannelSet, own: Sequence[tuple[_Layer, Place]]) -> list[np.ndarray]:
    """The positions among which channels move in one step: a cell, and where a layer is tied, one block of it."""
    keys = [np.array(found.cells or (0,) * found.size)]
    for layer, place in own:
        if layer.tied:
            keys += list(layer.block_of(place.dim)[np.array(place.index).reshape(found.size, -1)].T)
    _, parts = np.unique(np.stack(keys), axis=1, return_inverse=True)
    return [np.flatnonzero(parts == part) for part in range(parts.max() + 1)]


def _assigned(order: tuple[int, ...], gains: np.ndarray, members: np.ndarray) -> tuple[int, ...]:
    """The order in which the channels at `members` are where they gain most, the others as they were."""
    from scipy.optimize import linear_sum_assignment

    new, channels = np.array(order), np.array(order)[members]
    rows, columns = linear_sum_assignment(gains[np.ix_(members, channels)], maximize=True)
    new[members[rows]] = channels[columns]
    return tuple(new.tolist())


def _at_slots(gains: np.ndarray, place: Place, size: int) -> np.ndarray:
    """The gains of the channels of a set, summed over the positions that each has in one place."""
    positions = np.array(place.index).reshape(size, -1)
    return sum((gains[np.ix_(column, column)] for column in positions.T), np.zeros((size, size)))
