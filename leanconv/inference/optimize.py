"""The inference form of a network, for the device it is to run on."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, fx, nn

from leanconv.bench import runtimes
from leanconv.bench.latency import threads_set, time_interleaved
from leanconv.core.base import unwrapped
from leanconv.core.copying import copied
from leanconv.core.errors import LeanconvError, SettingError
from leanconv.core.operator import ConvOp
from leanconv.core.spec import ConvSpec
from leanconv.files.save import OPTIMIZED
from leanconv.inference.affine import Affine, conv_of, folded
from leanconv.inference.autotune import (
    ROUNDS,
    SECONDS,
    WARM_UP,
    Choice,
    FormCache,
    Progress,
    default_cache,
    fastest,
    times_of,
)
from leanconv.inference.fold import fold_norms
from leanconv.inference.forms import forms_of
from leanconv.inference.forms.types import Forms
from leanconv.inference.graph import record, trace
from leanconv.inference.merge import Branches, merge_branches

TOLERANCE = 1e-6  # in float64, of the largest output


@torch.no_grad()
def optimize(
    model: nn.Module,
    example: Tensor,
    *,
    measured: bool = True,
    runtime: str = "eager",
    threads: int | None = None,
    channels_last: bool = True,
    cache: Path | Literal["default"] | None = "default",
    progress: Progress | None = None,
) -> fx.GraphModule:
    """A copy of `model` for inference: the same function, in the form that is fastest on this device.

    Norms are folded into the convolutions before them; convolutions side by side on parts of one map become one grouped
    convolution where that is quicker; each lean layer runs in the form that took the least time on `example`'s device, in
    its dtype, at the shapes that occur, if the network as a whole is quicker for it.

    The result is an ordinary module: it compiles, exports, and saves its state dict. Its weights are expanded where the
    quicker form needs it, so that it may hold more than the lean network: save or export that one for its size.

    Args:
        model: a lean network, or a dense one, whose norms are folded too.
        example: one input, (N, C, H, W), on the device and in the dtype to run in; other sizes and batches work too.
        measured: choose by measuring; False takes the form that a rule says, at once.
        runtime: what to measure with, one of `leanconv.bench.runtimes.RUNTIMES`: the one that will run the network.
            "compile" takes some seconds for every form of every layer.
        threads: CPU threads to measure with; None for torch's setting.
        channels_last: keep maps channels_last, which is quicker nearly everywhere.
        cache: file to remember times in; None for none.
        progress: called with (done, all) before each layer that is measured.

    Raises:
        SettingError: a network that cannot be traced, or an example that it does not take.
        LeanconvError: the result differs from `model` by more than rounding.
    """
    # In float64 until the end: folding rounds once, and what comes out can be compared with what went in
    model = copied(unwrapped(model)).eval().double()
    threads = threads or torch.get_num_threads()
    layout = torch.channels_last if channels_last and example.dim() == 4 else torch.contiguous_format
    wide = example.double().contiguous(memory_format=layout)
    try:
        expected = model(wide)
    except (RuntimeError, ValueError, TypeError) as error:
        raise SettingError(f"the network does not take an example of {tuple(example.shape)}: {error}") from error
    graph = trace(model.to(memory_format=layout))
    affines = fold_norms(graph)
    record(graph, wide)
    merge_branches(graph, affines)
    inputs = record(graph, wide)
    layers = _open_layers(graph, inputs, affines, example)
    store = FormCache(default_cache() if cache == "default" else cache)
    names = {layer.name: next(iter(layer.forms)) for layer in layers}
    fast = _built(graph, layers, names, affines)
    _compare(fast(wide), expected)
    fast = fast.to(dtype=example.dtype).to(memory_format=layout)
    times: dict[str, dict[str, float]] = {}
    if measured:
        with threads_set(threads):
            for index, layer in enumerate(layers):
                if progress is not None:
                    progress(index, len(layers))
                if len(layer.forms) > 1:
                    times[layer.name] = times_of(layer.module, layer.forms, layer.given, runtime, threads, store)
            picked = names | {name: fastest(found) for name, found in times.items()}
            if picked != names:
                tuned = _built(graph, layers, picked, affines)
                _compare(tuned(wide), expected)
                tuned = tuned.to(dtype=example.dtype).to(memory_format=layout)
                if _is_faster(tuned, fast, example.contiguous(memory_format=layout), runtime, threads):
                    fast, names = tuned, picked
        store.write()
    setattr(fast, OPTIMIZED, tuple(Choice(name, form, times.get(name, {})) for name, form in names.items()))
    return fast


@dataclass(frozen=True)
class _Layer:
    """A layer that has forms, and what it is given."""

    name: str
    module: nn.Module
    forms: Forms
    given: Tensor


def _open_layers(
    graph: fx.GraphModule, inputs: dict[fx.Node, Tensor], affines: dict[str, Affine], example: Tensor
) -> list[_Layer]:
    found: dict[str, _Layer] = {}
    for node, meta in inputs.items():
        name = str(node.target)
        module = graph.get_submodule(name)
        if isinstance(module, Branches):
            forms = module.forms()
        elif isinstance(module, ConvOp):
            forms = forms_of(module, affines.get(name))
        else:
            continue
        given = torch.empty_like(meta, device=example.device, dtype=example.dtype)
        found.setdefault(name, _Layer(name, module, forms, given))  # the first call, of a layer called twice
    return list(found.values())


def _built(
    graph: fx.GraphModule, layers: list[_Layer], names: dict[str, str], affines: dict[str, Affine]
) -> fx.GraphModule:
    """A copy of `graph` with each layer in its form, and plain convolutions with the norms behind them folded in."""
    new = {layer.name: layer.forms[names[layer.name]]().eval() for layer in layers}
    for name, affine in affines.items():
        layer = graph.get_submodule(name)
        if isinstance(layer, nn.Conv2d):
            new[name] = conv_of(ConvSpec.of(layer), *folded(layer.weight, layer.bias, affine))
    fast = copy.deepcopy(graph)
    for name, module in new.items():
        fast.set_submodule(name, copy.deepcopy(module))
    fast.delete_all_unused_submodules()
    fast.recompile()
    return fast.requires_grad_(False).eval()


def _is_faster(tuned: nn.Module, plain: nn.Module, x: Tensor, runtime: str, threads: int) -> bool:
    """Whether the whole network is quicker too: a form can cost its neighbours a change of layout."""
    networks = {"plain": plain, "tuned": tuned}
    try:
        calls = {name: runtimes.prepare(runtime, network, x, threads) for name, network in networks.items()}
    except SettingError:
        raise
    except Exception:  # an exporter that knows each layer and not the whole
        return False
    found = time_interleaved(calls, device=x.device, min_rounds=ROUNDS, seconds=2 * SECONDS, warm_up=WARM_UP)
    return found[1].ratio < 1


def forms_chosen(fast: nn.Module) -> tuple[Choice, ...]:
    """What `optimize` chose for each lean layer, with the times it measured.

    Raises:
        SettingError: a network that did not come from `optimize`.
    """
    found: tuple[Choice, ...] | None = getattr(fast, OPTIMIZED, None)
    if found is None:
        raise SettingError(f"this {type(fast).__name__} did not come from optimize")
    return found


def _compare(found: object, expected: object) -> None:
    """Raise where the two differ by more than rounding."""
    for mine, other in zip(_tensors(found), _tensors(expected), strict=True):
        error, largest = float((mine - other).abs().max()), max(1.0, float(other.abs().max()))
        if not error <= TOLERANCE * largest:
            raise LeanconvError(
                f"the optimised network differs from the one it was made from by {error:.3g}, at outputs of up to "
                f"{largest:.3g}; please report it with the network"
            )


def _tensors(value: object) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    return [tensor for item in value for tensor in _tensors(item)] if isinstance(value, list | tuple) else []
