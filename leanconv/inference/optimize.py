"""Optimise a network for inference on one device."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from leanconv.core.copying import copied, refuse_lazy, refuse_meta
from leanconv.core.errors import SettingError, first_line
from leanconv.core.generators import random_kept
from leanconv.core.layout import to_layout, with_layout
from leanconv.core.linear import LeanLinear
from leanconv.core.modes import in_eval
from leanconv.core.notes import get_task
from leanconv.core.operator import ConvOp
from leanconv.core.record import Choice, NotRewritten, Optimized, get_record, set_record
from leanconv.core.settings import check_choice, check_int
from leanconv.core.sharing import adopt
from leanconv.core.wrappers import unscripted
from leanconv.inference.autotune import times_of
from leanconv.inference.compare import difference, refuse_unsteady, same_kind
from leanconv.inference.graph import Call
from leanconv.inference.parts import Twins, assemble, rewrite_parts, with_other
from leanconv.inference.rewrite import Part, mismatch
from leanconv.timing import runtimes
from leanconv.timing.latency import Progress, threads_set, time_interleaved
from leanconv.timing.modules import ROUNDS, SECONDS, WARM_UP, fastest
from leanconv.timing.store import TimeStore, default_store


@random_kept()
@torch.no_grad()
def optimize(
    model: nn.Module,
    example: Tensor,
    *,
    measured: bool = True,
    runtime: str = "eager",
    threads: int | None = None,
    channels_last: bool = True,
    cache: str | Path | None = "default",
    progress: Progress | None = None,
) -> nn.Module:
    """A copy of `model` for inference: the same function, in the form that is fastest on this device.

    Normalisation layers are folded into the convolutions before them. Parallel convolutions on parts of one feature map are
    merged into one grouped convolution if this is faster. Each lean layer runs in the form that took the least time on
    `example`'s device, in its dtype and at the shapes that occur, if the whole network is then faster.

    Every new layer is compared with the old layer, in float64 and in the dtype of inference, and so is the network. Each
    rewritten module is also compared at another batch and image size, if the network takes one. A normalisation layer whose
    scale does not fit into the weights of that dtype is kept. A module that cannot be traced, or that gives other outputs
    after rewriting, is kept unchanged. In a network with control flow, the largest modules without control flow are rewritten
    (`leanconv.inference.optimize.not_rewritten` names the modules that were not, with reasons).

    The result is an ordinary module, and an ``fx.GraphModule`` if the whole network can be traced: it can be compiled and
    exported, and its state dict can be saved. Its weights are expanded where the faster form needs it, so it may be larger
    than the lean network: to save space, save or export the lean network.

    Args:
        model: a lean network, or a dense network, whose normalisation layers are folded too.
        example: one input, (N, C, H, W), on the device of inference; other sizes and batches work too. If the weights have
            one dtype and the example is floating-point, the network is converted to the example's dtype; otherwise the
            dtypes stay.
        measured: choose forms by measuring; False takes the default forms, without measuring.
        runtime: the runtime that will run the network, one of `leanconv.timing.runtimes.RUNTIMES`; it measures the forms.
            "compile" needs some seconds for every form of every layer.
        threads: CPU threads for the measurement; None for torch's setting.
        channels_last: keep feature maps channels_last, which is faster nearly everywhere, if the network runs in it and gives
            the same output.
        cache: the file that remembers times; "default" for one in the user's cache, None for no file.
        progress: called with (done, all) before each layer that is measured.

    Raises:
        SettingError: the network does not run on the example, gives another output at each call, holds no values, or is
            scripted; the example holds no image; the runtime is unknown, `threads` is no whole number of at least 1, or `cache`
            is a folder.

    >>> fast = optimize(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), torch.zeros(1, 3, 8, 8), measured=False)
    >>> [type(layer).__name__ for layer in fast.children()]
    ['Conv2d']
    """
    if not isinstance(example, Tensor):
        raise SettingError(
            f"example is {type(example).__name__}, not a tensor; optimize takes networks of one input, (N, C, H, W)"
        )
    check_choice("runtime", runtime, tuple(runtimes.RUNTIMES))
    if threads is not None:
        check_int("threads", threads)
    if not example.numel():
        raise SettingError(f"example has shape {tuple(example.shape)} and no image; give at least one, (N, C, H, W)")
    model = unscripted(model, "optimize")
    refuse_lazy(model)
    refuse_meta(model)
    store = TimeStore(default_store() if cache == "default" else cache) if measured else None
    twins, layout = _in_layout(model, example, channels_last)
    example = with_layout(example, layout)
    twins = with_other(twins, example)
    parts, left = rewrite_parts(twins, layout, measured)
    whole = [part.name for part in parts] == [""]
    fast, parts, put_back = assemble(twins.base if whole or not measured else copied(twins.base), parts, twins)
    names = {part.name_of(layer): layer.form for part in parts for layer in part.layers if layer.lean}
    times: dict[str, dict[str, float]] = {}
    if store is not None:
        threads = threads or torch.get_num_threads()
        with threads_set(threads):
            times = _measured(parts, example.device, runtime, threads, store, progress)
            picked = names | {name: fastest(found) for name, found in times.items()}
            if picked != names:
                tuned, right, _ = assemble(twins.base, parts, twins, picked)
                if right == parts and _is_faster(tuned, fast, example, runtime, threads):
                    fast, names = tuned, picked
    adopt(fast, [module for module in fast.modules() if isinstance(module, ConvOp | LeanLinear)])
    fast = in_eval(fast.requires_grad_(False))
    choices = tuple(Choice(name, form, times.get(name, {})) for name, form in names.items())
    done = Optimized(choices, (*left, *put_back))
    set_record(fast, replace(get_record(fast), task=get_task(model), optimized=done))
    return fast


def _in_layout(model: nn.Module, example: Tensor, channels_last: bool) -> tuple[Twins, torch.memory_format]:
    """The network in channels_last if it then gives its own output, and otherwise in the ordinary layout; and the layout."""
    if channels_last:
        with contextlib.suppress(SettingError):
            output, truth = _own_outputs(model, example)
            twins = _twins(model, example, torch.channels_last)
            if same_kind(twins.output, output) and mismatch(twins.output, output, truth, twins.base) is None:
                return twins, torch.channels_last
    return _twins(model, example, torch.contiguous_format), torch.contiguous_format


def _own_outputs(model: nn.Module, example: Tensor) -> tuple[object, object | None]:
    """The outputs of the network as it is, in the dtype of inference and in float64."""
    twins = _twins(model, example, torch.preserve_format)
    return twins.output, twins.truth


def _twins(model: nn.Module, example: Tensor, layout: torch.memory_format) -> Twins:
    """The network in the dtype of inference and in float64, each ready to run on `example`, with both in `layout`."""
    example = with_layout(example, layout)
    base = to_layout(in_eval(copied(model)), layout)
    call = Call((example,))
    own = {tensor.dtype for tensor in (*base.parameters(), *base.buffers()) if tensor.is_floating_point()}
    output: object = None
    if example.is_floating_point() and len(own) == 1 and own != {example.dtype}:
        converted = to_layout(in_eval(copied(model)), layout).to(example.dtype)
        try:
            output, base = call.on(converted), converted
        except Exception:  # its code needs its own dtype
            output = None
    if output is None:
        try:
            output = call.on(base)
        except Exception as error:  # the network's own code may raise anything
            raise SettingError(
                f"the network does not run on an example of {tuple(example.shape)}: {first_line(error)}"
            ) from error
    refuse_unsteady(base, difference(call.on(base), output), output)
    exact = to_layout(in_eval(copied(model)).double(), layout)
    exact_call = Call((example.double() if example.is_floating_point() else example,))
    try:
        truth = exact_call.on(exact)
    except Exception:  # it has a cast or a plain tensor: compare only in the dtype of inference
        return Twins(base, exact, call, None, output, None)
    if not same_kind(truth, output):
        return Twins(base, exact, call, None, output, None)
    return Twins(base, exact, call, exact_call, output, truth)


def _measured(
    parts: Sequence[Part], device: torch.device, runtime: str, threads: int, store: TimeStore, progress: Progress | None
) -> dict[str, dict[str, float]]:
    """Milliseconds of every accepted form, for each layer that has several forms."""
    layers = [(part, layer) for part in parts for layer in part.layers if layer.lean]
    found = {}
    for index, (part, layer) in enumerate(layers):
        if progress is not None:
            progress(index, len(layers))
        forms = {form: build for form, build in layer.forms.items() if form not in layer.refused}
        if len(forms) > 1 and layer.given is not None:
            given = torch.empty_like(layer.given, device=device)
            found[part.name_of(layer)] = times_of(
                layer.module, forms, given, runtime, threads, store, bool(layer.norms)
            )
    store.write()
    return found


def _is_faster(tuned: nn.Module, plain: nn.Module, x: Tensor, runtime: str, threads: int) -> bool:
    """Whether the whole network is faster too: a form may force its neighbours to change their memory layout."""
    networks = {"plain": plain, "tuned": tuned}
    try:
        calls = {name: runtimes.prepare(runtime, network, x, threads) for name, network in networks.items()}
    except SettingError:
        raise
    except Exception:  # the exporter may support each layer but not the whole network
        return False
    found = time_interleaved(calls, device=x.device, min_rounds=ROUNDS, seconds=2 * SECONDS, warm_up=WARM_UP)
    return found[1].ratio < 1


def forms_chosen(fast: nn.Module) -> tuple[Choice, ...]:
    """The form that `optimize` chose for each lean layer, with the measured times.

    Raises:
        SettingError: the network did not come from `optimize`.
    """
    return _optimized(fast).choices


def not_rewritten(fast: nn.Module) -> tuple[NotRewritten, ...]:
    """The modules that `optimize` could not rewrite as a whole, with reasons; empty if the whole network is one graph.

    Raises:
        SettingError: the network did not come from `optimize`.
    """
    return _optimized(fast).not_rewritten


def _optimized(fast: nn.Module) -> Optimized:
    found = get_record(fast).optimized
    if found is None:
        raise SettingError(f"this {type(fast).__name__} did not come from optimize")
    return found
