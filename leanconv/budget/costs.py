"""The cost of each candidate: parameters, bytes, MACs and memory by formula or dry run, and time by measurement."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any, Literal

import torch
from torch import Tensor, nn

from leanconv.budget.memory import alive, inner_bytes
from leanconv.budget.space import Candidate, Space
from leanconv.conversion.plan import Plan
from leanconv.core.count import count, unique
from leanconv.core.errors import SettingError
from leanconv.core.meta import built_on_meta
from leanconv.core.method import Group
from leanconv.inference.race import race
from leanconv.search.faster import layer_times

Cache = Path | Literal["default"] | None


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
    """The costs of all candidates, and of the dense network.

    Args:
        network: the values of the whole dense network by measure. Time and memory are missing if they are unknown.
        alive: bytes of the feature maps that are alive while each layer is called in the dense network, by the layer's name.
        by_key: the cost of each candidate, by its key.
        unmeasured: the number of candidates without a time, because the time for measuring was over.
    """

    network: dict[str, float]
    alive: dict[str, float]
    by_key: dict[str, Cost]
    unmeasured: int = 0

    def total(self, space: Space, chosen: Sequence[Candidate]) -> dict[str, float]:
        """The predicted values of a network: the dense network's, changed by what each chosen candidate saves."""
        found = {}
        for measure in self.network:
            if measure != "memory":
                saved = (self._saving(candidate, measure) for candidate in chosen if candidate.group is not None)
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
        return cls(dict(value["network"]), dict(value["alive"]), costs, value["unmeasured"])


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
        assert candidate.group is not None
        alike = (candidate.group.method, *((site.spec, site.sizes, site.kind) for site in candidate.sites))
        if alike not in known:
            known[alike] = _built(candidate.group, size, batch)
        weights, maps = known[alike]
        names = [site.name for site in candidate.sites]
        inner = {} if held is None else dict(zip(names, maps, strict=True))
        costs[candidate.key] = Cost(candidate.params(), candidate.macs(), weights, inner)
    return Costs(network, {} if held is None else {name: float(value) for name, value in held.at.items()}, costs)


def _built(group: Group, size: int, batch: int) -> tuple[float, list[float]]:
    """Bytes of the weights of a group, and bytes of the maps inside each operator for inputs of the network's sizes.

    Args:
        group: the group.
        size: bytes of a floating-point number.
        batch: images in a call.
    """
    modules = built_on_meta(lambda: nn.ModuleList(group.build())).eval()
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


def measured_costs(
    costs: Costs,
    space: Space,
    *,
    runtime: str,
    batch: int,
    threads: int | None,
    seconds: float,
    cache: Cache = "default",
    progress: Callable[[int, int, str], None] = lambda done, total, text: None,
) -> Costs:
    """`costs` with the time of each candidate in a runtime.

    A lean layer is timed interleaved with its dense layer, in each of its inference forms, once for each layer shape; the cache
    holds the times of earlier searches. The time of a candidate is the dense layer's time times the measured ratio. Layers with
    many MACs are measured first. Candidates that are not measured when `seconds` are over have no time.

    Args:
        costs: the other costs.
        runtime, batch, threads: how the network will run.
        seconds: the longest time for all measurements together.
        cache: the file of measured times, as in `leanconv.optimize`.
        progress: called with (done, all, candidate) after each candidate.
    """
    end = time.monotonic() + seconds
    order = sorted(space.lean, key=lambda one: -max(site.macs() for site in one.sites))
    dense: dict[str, list[float]] = {}
    ratios: dict[str, dict[str, float]] = {}
    for number, candidate in enumerate(order, 1):
        if time.monotonic() > end:
            break
        assert candidate.group is not None
        plan = Plan((candidate.group,), (), space.input_size)
        times = layer_times(plan, batch=batch, threads=threads, runtime=runtime, cache=cache)
        for entry in times:
            dense.setdefault(entry.name, []).append(entry.dense_ms)
        ratios[candidate.key] = {entry.name: entry.lean_ms / entry.dense_ms for entry in times}
        progress(number, len(order), candidate.key)
    base = {name: median(values) for name, values in dense.items()}
    by_key = dict(costs.by_key)
    for candidate in space.dense:
        name = candidate.sites[0].name
        by_key[candidate.key] = replace(by_key[candidate.key], time=base.get(name, 0.0))
    for key, own in ratios.items():
        by_key[key] = replace(by_key[key], time=sum(base[name] * ratio for name, ratio in own.items()))
    return replace(costs, by_key=by_key, unmeasured=len(order) - len(ratios))


def network_ms(
    networks: Mapping[str, nn.Module], example: Tensor, runtime: str, threads: int | None, seconds: float
) -> dict[str, Any]:
    """The measured times of whole networks, interleaved: for each, its fastest entry in the runtime.

    Returns:
        `leanconv.timing.race.Entry` by the name of the network.

    Raises:
        SettingError: a network does not run in the runtime.
    """
    found = race(networks, example, names=(runtime,), threads=threads, seconds=seconds)
    best = {entry.network: entry for entry in found if entry.best}
    for name in networks:
        if name not in best:
            reason = next((entry.failed for entry in found if entry.network == name and entry.failed), "unknown reason")
            raise SettingError(f"{name} does not run in {runtime} ({reason}); choose another runtime")
    return best
