"""The time of each candidate, measured in the runtime that will run the network, and the times of whole networks."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Literal

import torch
from torch import Tensor, nn

from leanconv.budget.costs import Costs
from leanconv.budget.space import Candidate, Space
from leanconv.core.copying import copied
from leanconv.core.errors import LeanconvError, SettingError, first_line
from leanconv.core.layout import layout_of, to_layout, with_layout
from leanconv.core.linear import LeanLinear
from leanconv.core.meta import InputSize
from leanconv.core.method import Site
from leanconv.core.modes import in_eval
from leanconv.core.operator import ConvOp
from leanconv.inference.optimize import optimize
from leanconv.search.faster import DENSE, dense_layer, lean_forms
from leanconv.timing import runtimes
from leanconv.timing.latency import threads_set, time_interleaved
from leanconv.timing.layers import inputs_of
from leanconv.timing.modules import ROUNDS, measure, prepared
from leanconv.timing.race import AS_IS, Entry, Made, as_it_is, race
from leanconv.timing.store import TimeStore, default_store, key_of

Cache = Path | Literal["default"] | None
FOLDED = "folded"
NETWORK = "network"
SECONDS = 3.0  # for the baseline
TOGETHER = 8  # the most lean layers that are timed interleaved with one dense layer


@torch.no_grad()
def measured_costs(
    costs: Costs,
    space: Space,
    model: nn.Module,
    *,
    runtime: str,
    batch: int,
    threads: int | None,
    seconds: float,
    cache: Cache = "default",
    progress: Callable[[int, int, str], None] = lambda done, total, text: None,
) -> Costs:
    """`costs` with the time of each candidate in a runtime.

    The candidates of one layer shape are timed interleaved with the dense layer, each in its default form for inference, with a
    folded normalisation layer. This is done once for each shape, and the cache holds the times of earlier searches. The time of a
    candidate is the dense layer's time times the measured ratio, and the time of the dense layer comes from `baseline`. So no
    time depends on the load of the machine at another time. Layers with many MACs are measured first, and each shape has an equal
    part of the time that is left, in which at least its first candidates are measured. What is not measured when `seconds` are
    over has no time, and so has a candidate that the runtime cannot run.

    Args:
        costs: the other costs.
        space: the candidates.
        model: the dense network.
        runtime, batch, threads: how the network will run.
        seconds: the longest time for all measurements together.
        cache: the file of measured times, as in `leanconv.optimize`.
        progress: called with (done, all, layer) after each layer shape.

    Raises:
        SettingError: the runtime is unknown or not installed.
    """
    runtimes.check(runtime)
    begin = time.monotonic()
    end = begin + seconds
    store = TimeStore(default_store() if cache == "default" else cache)
    shapes: dict[tuple[object, ...], list[Site]] = {}
    for site in space.sites:
        shapes.setdefault((site.spec, site.kind, site.sizes), []).append(site)
    order = sorted(shapes.values(), key=lambda sites: -sites[0].macs() * len(sites))
    network, dense = baseline(model, order, space.input_size, runtime, batch, threads)
    ratios: dict[str, dict[str, float]] = {one.key: {} for one in space.lean}
    with threads_set(threads):
        for number, sites in enumerate(order, 1):
            now = time.monotonic()
            if now > end:
                break
            own, until = _of_shape(space, sites), now + (end - now) / (len(order) - number + 1)
            found = [
                _timed(sites[0], own, x, runtime, threads or torch.get_num_threads(), store, until)
                for x in inputs_of(sites[0], batch, torch.device("cpu"), torch.float32, True)
            ]
            for site in sites:
                for one in space.lean:
                    text = _signature(one, site)
                    if text is not None and all(text in times for _, times in found):
                        lean = sum(base * times[text] for base, times in found)
                        ratios[one.key][site.name] = lean / sum(base for base, _ in found)
            store.write()
            progress(number, len(order), f"{len(own)} operators for {sites[0].layer}")
    timed = replace(costs, network=costs.network | {"time": network}, seconds=time.monotonic() - begin)
    return _with_times(timed, space, dense, ratios)


def baseline(
    model: nn.Module,
    shapes: Sequence[Sequence[Site]],
    input_size: InputSize,
    runtime: str,
    batch: int,
    threads: int | None,
) -> tuple[float, dict[str, float]]:
    """The time of the dense network, and of each of its layers, all interleaved: milliseconds a call.

    A layer alone takes a little longer than in the network. If the layers together take longer than the network, their times
    are scaled to the network's time.

    Args:
        model: the dense network.
        shapes: the layers; those of one shape together.
        input_size: (channels, height, width) of one image.
        runtime, batch, threads: how the network runs.

    Raises:
        SettingError: the network does not run in the runtime.
    """
    count = threads or torch.get_num_threads()
    layout = layout_of(model)
    example = with_layout(torch.randn(batch, *input_size), layout)
    calls: dict[str, runtimes.Call] = {}
    owners: list[tuple[str, Sequence[Site]]] = []
    with threads_set(threads):
        network = in_eval(to_layout(copied(model), layout))
        try:
            folded = _folded(network, example, runtime, count).module
            calls[NETWORK] = runtimes.prepare(runtime, network if folded is None else folded, example, count)
            calls[NETWORK]()
        except Exception as error:  # from the network's code or an exporter
            raise SettingError(
                f"the dense network does not run in {runtime} ({first_line(error)}); choose another runtime"
            ) from error
        for number, sites in enumerate(shapes):
            for x in inputs_of(sites[0], batch, torch.device("cpu"), torch.float32, True):
                name = f"{number} {tuple(x.shape)}"
                owners.append((name, sites))
                if name not in calls:
                    calls[name] = prepared(dense_layer(sites[0]), torch.randn_like(x), runtime, count)
        times = {entry.name: entry.median_ms for entry in time_interleaved(calls, min_rounds=ROUNDS, seconds=SECONDS)}
    layers: dict[str, float] = {}
    for name, sites in owners:
        for site in sites:
            layers[site.name] = layers.get(site.name, 0.0) + times[name]
    scale = min(1.0, times[NETWORK] / sum(layers.values()))
    return times[NETWORK], {name: value * scale for name, value in layers.items()}


def _with_times(
    costs: Costs, space: Space, dense: Mapping[str, float], ratios: Mapping[str, Mapping[str, float]]
) -> Costs:
    by_key = dict(costs.by_key)
    for one in space.dense:
        by_key[one.key] = replace(by_key[one.key], time=dense.get(one.sites[0].name, 0.0))
    unmeasured = 0
    for one in space.lean:
        own = ratios[one.key]
        if one.block is not None or len(own) == len(one.sites):  # removed layers take no time
            by_key[one.key] = replace(by_key[one.key], time=sum(dense[name] * ratio for name, ratio in own.items()))
        else:
            unmeasured += 1
    return replace(costs, by_key=by_key, unmeasured=unmeasured)


def _of_shape(space: Space, sites: Sequence[Site]) -> dict[str, Callable[[], nn.Module]]:
    """The default forms of all lean layers for layers of one shape, by their signatures."""
    names = {site.name for site in sites}
    found: dict[str, Callable[[], nn.Module]] = {}
    for one in space.lean:
        for index, site in enumerate(one.sites):
            if site.name in names:
                text = _signature(one, site)
                if text is not None:
                    found.setdefault(text, lambda one=one, index=index, site=site: _default_form(one, index, site))  # type: ignore[misc]
    return found


def _signature(one: Candidate, site: Site) -> str | None:
    """What decides the time of a candidate at one of its layers; None if the layer is another candidate's or is removed."""
    if site not in one.sites or one.group is None:
        return None
    # layers of a group differ in speed if their specs differ, or if their places have another setting, such as a blend
    place = one.sites.index(site) if len(one.sites) > 1 else 0
    return f"{one.label} {len(one.sites)} {place}"


def _default_form(one: Candidate, index: int, site: Site) -> nn.Module:
    assert one.group is not None
    module = in_eval(one.group.build()[index])
    assert isinstance(module, ConvOp | LeanLinear)
    return next(iter(lean_forms(site, module).values()))()


def _timed(
    site: Site, builds: Mapping[str, Callable[[], nn.Module]], x: Tensor, runtime: str, threads: int, store: TimeStore,
    until: float,
) -> tuple[float, dict[str, float]]:  # fmt: skip
    """Milliseconds of the dense layer, and the ratio of each lean layer to it; from the store, if they were measured before.

    Behind the first `TOGETHER` layers, none is measured after the time `until`.
    """

    def key(text: str) -> str:
        return key_of(f"search {site.kind} {site.spec} {site.spec.kwargs()} {text}", x, runtime, threads)

    missing = [text for text in builds if key(text) not in store.times]
    for start in range(0, len(missing), TOGETHER):
        if start and time.monotonic() > until:
            break
        part = {text: builds[text] for text in missing[start : start + TOGETHER]}
        found = measure({DENSE: lambda: dense_layer(site), **part}, x, runtime, threads)
        for text in part:
            store.times[key(text)] = {name: found[name] for name in (DENSE, text) if name in found}
    known = {text: store.times[key(text)] for text in builds if key(text) in store.times}
    base = [times[DENSE] for times in known.values()]
    if not base:
        store.times.setdefault(key(DENSE), measure({DENSE: lambda: dense_layer(site)}, x, runtime, threads))
        base = [store.times[key(DENSE)][DENSE]]
    return median(base), {text: times[text] / times[DENSE] for text, times in known.items() if text in times}


def network_ms(
    networks: Mapping[str, nn.Module], example: Tensor, runtime: str, threads: int | None, seconds: float
) -> dict[str, Entry]:
    """The measured time of whole networks, interleaved: the faster of as they are, and with folded normalisation layers.

    With folded layers, each lean layer is in its default form, as in an exported file.

    Returns:
        the fastest entry of each network, by its name; ratios compare with the first network.

    Raises:
        SettingError: a network does not run in the runtime.
    """
    forms = {AS_IS: as_it_is, FOLDED: _folded}
    found = race(networks, example, names=(runtime,), forms=forms, threads=threads, seconds=seconds)
    best = {entry.network: entry for entry in found if entry.best}
    for name in networks:
        if name not in best:
            reason = next((entry.failed for entry in found if entry.network == name and entry.failed), "unknown reason")
            raise SettingError(f"{name} does not run in {runtime} ({reason}); choose another runtime")
    return best


def _folded(network: nn.Module, example: Tensor, runtime: str, threads: int) -> Made:
    try:
        return Made(optimize(network, example, measured=False, runtime=runtime, threads=threads))
    except LeanconvError as error:
        return Made(None, failed=str(error))
