"""The inference form of a network, for the device it is to run on."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, fx, nn

from leanconv.bench.latency import threads_set
from leanconv.core.base import unwrapped
from leanconv.core.errors import LeanconvError, SettingError
from leanconv.core.operator import ConvOp
from leanconv.core.spec import ConvSpec
from leanconv.files.save import OPTIMIZED
from leanconv.inference.affine import conv_of, folded
from leanconv.inference.autotune import Choice, FormCache, Progress, default_cache, fastest, times_of
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
    its dtype, at the shapes that occur. The result is an ordinary module: it compiles, exports, and saves its state
    dict. Its weights are expanded where the quicker form needs it, so that it may hold more than the lean network: save
    or export that one for its size.

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
    model = copy.deepcopy(unwrapped(model)).eval().double()
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
    store = FormCache(default_cache() if cache == "default" else cache)
    open_choices = [node for node in inputs if isinstance(graph.get_submodule(str(node.target)), ConvOp | Branches)]
    choices, picked = [], {}
    with threads_set(threads):
        for index, node in enumerate(open_choices):
            if progress is not None:
                progress(index, len(open_choices))
            name = str(node.target)
            if name in picked:  # one layer called twice
                continue
            layer = graph.get_submodule(name)
            affine = affines.get(name)
            forms = layer.forms() if isinstance(layer, Branches) else forms_of(layer, affine)  # type: ignore[arg-type]
            given = torch.empty_like(inputs[node], device=example.device, dtype=example.dtype)
            choice = _choose(name, layer, forms, given, measured, runtime, threads, store)
            choices.append(choice)
            picked[name] = forms[choice.form]().eval()
    store.write()
    for name, affine in affines.items():
        layer = graph.get_submodule(name)
        if isinstance(layer, nn.Conv2d):
            picked[name] = conv_of(ConvSpec.of(layer), *folded(layer.weight, layer.bias, affine))
    for name, module in picked.items():
        graph.set_submodule(name, module)
    graph.recompile()
    graph.delete_all_unused_submodules()
    fast = graph.requires_grad_(False).eval()
    _compare(fast(wide), expected)
    fast = fast.to(dtype=example.dtype).to(memory_format=layout)
    setattr(fast, OPTIMIZED, tuple(choices))
    return fast


def forms_chosen(fast: nn.Module) -> tuple[Choice, ...]:
    """What `optimize` chose for each lean layer, with the times it measured.

    Raises:
        SettingError: a network that did not come from `optimize`.
    """
    found: tuple[Choice, ...] | None = getattr(fast, OPTIMIZED, None)
    if found is None:
        raise SettingError(f"this {type(fast).__name__} did not come from optimize")
    return found


def _choose(
    name: str, layer: nn.Module, forms: Forms, x: Tensor, measured: bool, runtime: str, threads: int, store: FormCache
) -> Choice:
    if not measured or len(forms) == 1:
        return Choice(name, next(iter(forms)), {})
    times = times_of(layer, forms, x, runtime, threads, store)
    return Choice(name, fastest(times), times)


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
