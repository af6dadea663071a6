"""The cost of each candidate: parameters, bytes, MACs and memory by formula or dry run, and time by measurement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import nn

from leanconv.budget.memory import alive, inner_bytes
from leanconv.budget.space import Candidate, Space
from leanconv.conversion.channel_plan import ChannelPlan, apply_channels_
from leanconv.core.count import Count, count, unique
from leanconv.core.meta import built_on_meta, on_meta
from leanconv.core.method import DENSE, Group
from leanconv.core.modes import in_eval

NOISE = 0.02  # part of a layer's time that two measurements of it may differ by
NEGLIGIBLE = 0.05  # part of an average layer's cost; what saves less only costs accuracy, for example in a stem


@dataclass(frozen=True)
class Cost:
    """The cost of one candidate: the sum over its layers.

    Args:
        params, macs, bytes: parameters, MACs of one image, and bytes of the weights.
        inner: bytes of the feature maps inside each layer's operator during a call, by the layer's name.
        time: milliseconds of a call; None if it was not measured.
    """

    params: float
    macs: float
    bytes: float
    inner: dict[str, float] = field(default_factory=dict)
    time: float | None = None

    def of(self, measure: str) -> float | None:
        """The cost by the name of a measure that adds up over layers: params, macs, bytes or time."""
        value: float | None = getattr(self, measure)
        return value


@dataclass(frozen=True)
class Costs:
    """The costs of all candidates, and of the network whose layers they replace.

    Args:
        network: the values of the whole network by measure. Time and memory are missing if they are unknown.
        alive: bytes of the feature maps that are alive while each layer is called in the network, by the layer's name.
        by_key: the cost of each candidate, by its key.
        unmeasured: the number of candidates without a time, because the time for measuring was over.
        reference: the values of the dense network, of which parts are shown, if `network` has fewer channels.
        seconds: what the measuring of times took.
    """

    network: dict[str, float]
    alive: dict[str, float]
    by_key: dict[str, Cost]
    unmeasured: int = 0
    reference: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def dense(self) -> dict[str, float]:
        """The values of the dense network by measure."""
        return self.reference or self.network

    @cached_property
    def layers(self) -> int:
        """The number of layers that may become lean."""
        return sum(key.startswith(f"{DENSE} @ ") for key in self.by_key)

    def of_narrower(self, dense: Mapping[str, float], milliseconds: float) -> Costs:
        """These costs as those of a network with fewer channels.

        Args:
            dense: the values of the dense network.
            milliseconds: the time of the network, measured together with the dense one's; all times are scaled to it.
        """
        found = replace(self, reference=dict(dense))
        if "time" not in self.network:
            return found
        factor = milliseconds / self.network["time"]
        scaled = {key: replace(one, time=one.time and one.time * factor) for key, one in self.by_key.items()}
        return replace(found, network=self.network | {"time": milliseconds}, by_key=scaled)

    def helps(self, candidate: Candidate, measures: Sequence[str]) -> bool:
        """Whether a lean candidate saves more of one of `measures` than `NEGLIGIBLE`, and of time more than `NOISE`.

        Memory is saved by smaller weights only. A candidate without a time saves no time.
        """
        cost, dense = self.by_key[candidate.key], [self.by_key[Candidate((site,)).key] for site in candidate.sites]
        for measure in measures:
            name = "bytes" if measure == "memory" else measure
            own, others = cost.of(name), sum(one.of(name) or 0.0 for one in dense)
            average = self.network.get(name, 0.0) / self.layers
            least = max(NEGLIGIBLE * average, NOISE * others * (name == "time"))
            if own is not None and others - own > least:
                return True
        return False

    def total(self, space: Space, chosen: Sequence[Candidate]) -> dict[str, float]:
        """The predicted values of a network: those of the network before, changed by what each chosen candidate saves."""
        found = {}
        for measure in self.network:
            if measure != "memory":
                saved = (self._saving(candidate, measure) for candidate in chosen if candidate.changes)
                found[measure] = self.network[measure] - sum(saved)
        if "memory" in self.network:
            inner = [self.alive[name] + size for one in chosen for name, size in self.by_key[one.key].inner.items()]
            found["memory"] = found["bytes"] + max([self.network["memory"] - self.network["bytes"], *inner])
        return found

    def _saving(self, candidate: Candidate, measure: str) -> float:
        lean = self.by_key[candidate.key].of(measure)
        dense = [self.by_key[Candidate((site,)).key].of(measure) for site in candidate.sites]
        assert lean is not None and None not in dense
        return sum(value for value in dense if value is not None) - lean

    def to_json(self) -> dict[str, Any]:
        """The costs as plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Costs:
        """The costs that `to_json` gave."""
        costs = {key: Cost(**own) for key, own in value["by_key"].items()}
        reference, seconds = dict(value.get("reference", {})), value.get("seconds", 0.0)  # not in earlier files
        return cls(dict(value["network"]), dict(value["alive"]), costs, value["unmeasured"], reference, seconds)


def formula_costs(model: nn.Module, space: Space, batch: int = 1) -> Costs:
    """All costs except time.

    Bytes are those of the modules' parameters and buffers. `memory` is the bytes of all weights and the peak of the feature
    maps in eager PyTorch; it is missing if the network cannot be traced.

    Args:
        model: the dense network, in eval mode.
        space: the candidates.
        batch: images in a call, for the memory.
    """
    whole = count(model, space.input_size)
    network = {"params": float(whole.params), "macs": float(whole.macs or 0), "bytes": float(whole.bytes)}
    parameter = next(model.parameters())
    images = torch.zeros(batch, *space.input_size, dtype=parameter.dtype, device=parameter.device)
    held = alive(model, images, [site.name for site in space.sites])
    if held is not None:
        network["memory"] = network["bytes"] + held.peak
    costs: dict[str, Cost] = {}
    size = parameter.element_size()
    for candidate in space.dense:
        own = candidate.params()
        inner = {} if held is None else {candidate.sites[0].name: 0.0}
        costs[candidate.key] = Cost(own, candidate.macs(), own * size, inner)
    known: dict[tuple[object, ...], tuple[float, list[float]]] = {}
    for candidate in space.lean:
        if candidate.block is not None:
            costs[candidate.key] = _without(candidate, whole, model, space, size)
            continue
        assert candidate.group is not None
        alike = (candidate.group.method, *((site.spec, site.sizes, site.kind) for site in candidate.sites))
        if alike not in known:
            known[alike] = _built(candidate.group, size, batch)
        weights, maps = known[alike]
        names = [site.name for site in candidate.sites]
        inner = {} if held is None else dict(zip(names, maps, strict=True))
        costs[candidate.key] = Cost(candidate.params(), candidate.macs(), weights, inner)
    return Costs(network, {} if held is None else {name: float(value) for name, value in held.at.items()}, costs)


def _without(candidate: Candidate, whole: Count, model: nn.Module, space: Space, size: int) -> Cost:
    """The cost of a removed block: what its searched layers cost, less all that the network saves, its norms included.

    The cost is negative if the block holds more than the searched layers.

    Args:
        candidate: the removal.
        whole: the counts of the network.
        model: the network.
        space: all candidates.
        size: bytes of a floating-point number.
    """
    assert candidate.block is not None
    rest = count(apply_channels_(on_meta(model), ChannelPlan(removed=(candidate.block,))), space.input_size)
    params, macs = (sum(getattr(site, name)() for site in candidate.sites) for name in ("params", "macs"))
    return Cost(
        float(params - (whole.params - rest.params)),
        float(macs - ((whole.macs or 0) - (rest.macs or 0))),
        float(params * size - (whole.bytes - rest.bytes)),
    )


def _built(group: Group, size: int, batch: int) -> tuple[float, list[float]]:
    """Bytes of the weights of a group, and bytes of the maps inside each operator for inputs of the network's sizes.

    Args:
        group: the group.
        size: bytes of a floating-point number.
        batch: images in a call.
    """
    modules = in_eval(built_on_meta(lambda: nn.ModuleList(group.build())))
    tensors = unique([*modules.parameters(), *modules.buffers()])
    weights = sum(
        tensor.numel() * (size if tensor.is_floating_point() else tensor.element_size()) for tensor in tensors
    )
    maps = []
    for site, module in zip(group.sites, modules.children(), strict=True):
        (h, w), (sh, sw), c = site.sizes[0], site.spec.stride, site.spec.in_channels
        shape = (batch, h, w, c) if site.kind == "linear" else (batch, c, h * sh, w * sw)
        maps.append(float(inner_bytes(module, torch.zeros(shape, device="meta"))))
    return float(weights), maps
