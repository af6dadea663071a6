"""Load checkpoints that leanconv did not write: a state dict of the network, or of the release of its paper."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor, nn

from leanconv.core.copying import refuse_lazy, refuse_meta
from leanconv.core.errors import FileError
from leanconv.core.reading import reading
from leanconv.core.release import Place
from leanconv.core.settings import check_bool
from leanconv.core.shown import first_names
from leanconv.core.state import versioned
from leanconv.core.wrappers import unwrapped
from leanconv.files.classifier import classifier_tensors
from leanconv.files.origin import check_padding, origin_of, set_origin_
from leanconv.files.releases import places
from leanconv.files.shards import checkpoint_file, part_hint
from leanconv.files.states import COUNTERS, WRAPPERS, State, read_states, without
from leanconv.files.values import warn_of_bad_values

MOST_PREFIXES = 100
AVERAGED = re.compile(r"(^|[._])(ema|avg|average|averaged|swa|shadow|polyak)($|[._])")
# The releases store some tensors twice, or never use them: bases at the root and in each block; DenseNet's basis 4 is basis 3
REPEATED = re.compile(r"(^|\.)(shared_basis\w*\.weight|bank(_\d)?\.templates)$")
NEVER_USED = "shared_basis_4.weight"


def load_checkpoint(
    model: nn.Module,
    path: str | os.PathLike[str],
    *,
    state: str | None = None,
    shortcut_padding: str | None = None,
    fresh_classifier: bool = False,
) -> nn.Module:
    """Fill `model` from a checkpoint that leanconv did not write; every tensor must find its place.

    The file holds the network's own names, or the names of the release of its paper: the layers of Tied Block Convolution
    (``conv.weight``, ``linear.weight``, ``fc.0``), SPConv (``gwc``, ``pwc``, ``conv1x1``), the networks of the filter bases
    (``shared_basis_*``, ``basis_conv1``), of soft sharing (``bank.templates``) and of Octave Convolution (``conv_h2h``). Load
    a dense checkpoint into the dense network; ``convert(..., init="fit")`` then makes lean weights of it.

    Names may have any prefix (``module.``, ``_orig_mod.``, ``model.``), and may be in dicts inside the file. The function
    takes the dict and the prefix where all tensors fit. If several fit, it leaves averaged weights (``model_ema``). If several
    different ones remain, it raises an error that asks for `state`.

    **What the tensors do not show.** Two networks may have the same tensors and compute different outputs. Three such
    differences are known between the releases and leanconv's networks: the padding of option-A shortcuts, the pooling of
    Octave Convolution at stride 2, and the missing ReLU in the filter bases' DenseNet. If the names show the release,
    `model` is changed to compute as the release does. If the names belong to no known release, an error asks for the padding.
    The function cannot see other differences, so check them yourself: whether a bottleneck has its stride on the 1x1 (Caffe)
    or the 3x3; ``eps`` of normalisation layers (1e-3 in TensorFlow); ReLU, ReLU6 or SiLU; "same" padding, and ceil or floor in
    pooling (timm's ``tf_`` networks differ from the others); the strides of a MobileNet's stages for small images; how
    images are normalised; and the order of channels and of classes.

    Args:
        path: a safetensors file; the index of several, ``model.safetensors.index.json``, or its folder; or a file of
            torch.save, which is read with ``weights_only=True`` and may hold a run's arguments and arrays of numpy.
        state: which part of the file to take, if several fit: its keys with dots, or a word of these keys ("ema"). The other
            parts of the file are left.
        shortcut_padding: "end" or "both", of option-A shortcuts, see `leanconv.models.resnet.PadShortcut`.
        fresh_classifier: keep the network's own last layer, for a checkpoint of other classes.

    Returns:
        `model`, or the network inside its wrapper, with the weights of the file.

    Raises:
        FileError: the file cannot be read without running code, its tensors are not those of `model`, or a setting is needed
            that the file does not show. `model` is then unchanged.
        SettingError: `path` is no path, `shortcut_padding` is for a network that has no such shortcut, or the network is on the
            meta device.

    >>> from torch import nn
    >>> torch.save({"state_dict": {"module.weight": torch.ones(1, 2), "module.bias": torch.zeros(1)}}, "old.pt")
    >>> load_checkpoint(nn.Linear(2, 1), "old.pt").weight.tolist()
    [[1.0, 1.0]]
    """
    path = checkpoint_file(path)
    check_bool("fresh_classifier", fresh_classifier)
    model = unwrapped(model)
    check_padding(model, shortcut_padding)
    refuse_meta(model, "build the network on the CPU, then load")
    with reading(path):
        states = read_states(path)
        refuse_lazy(model)
        own = dict(model.state_dict(keep_vars=True))
        fresh = _classifier(model) if fresh_classifier else frozenset()
        fit = _chosen(states, _Target(own, places(model), fresh), path, state)
        settings = origin_of(model, fit.theirs, fit.metadata, path.name, shortcut_padding)
        plain = {name: tensor.detach() for name, tensor in fit.found.items()}
        model.load_state_dict(versioned(model, own | plain), strict=True)
        set_origin_(model, settings)
    warn_of_bad_values(plain, path.name)
    return model


@dataclass
class Fit:
    """One way to read a state dict as the network's: which tensors fill which entries, and what does not fit.

    Args:
        where: the keys that lead to the dict in the file, with dots.
        label: `where` with the prefix of the dict's names.
        found: the tensors by our names.
        theirs: the names of these tensors in the file, without the prefix.
        metadata: PyTorch's notes on the modules, by their names without the prefix.
        inside, outside: names of the dict with the prefix, and all its other names.
        problem: the first thing that does not fit.
    """

    where: str = ""
    label: str = ""
    found: dict[str, Tensor] = field(default_factory=dict)
    theirs: set[str] = field(default_factory=set)
    metadata: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    inside: set[str] = field(default_factory=set)
    outside: set[str] = field(default_factory=set)
    problem: str | None = None


@dataclass(frozen=True)
class _Target:
    """What is to be filled: the network's tensors, the names that each may have, and the tensors that are kept."""

    own: dict[str, Tensor]
    places: list[Place]
    fresh: frozenset[str]


def _classifier(model: nn.Module) -> frozenset[str]:
    """The names of the last layer's tensors."""
    names = classifier_tensors(model)
    if not names:
        raise FileError(f"fresh_classifier: no last linear layer was found in {type(model).__name__}; leave it out")
    return names


def _chosen(states: list[State], target: _Target, path: Path, state: str | None) -> Fit:
    """The one part of the file whose tensors all fit."""
    if not states:
        raise FileError(f"{path.name} holds no tensors by name; save the network's state dict alone with torch.save")
    fits = [fit for found in states for fit in _fits(found, target)]
    if state is not None:
        fits = _named(fits, state, path)
    whole = [fit for fit in fits if fit.problem is None]
    if state is None:
        whole = _without_others(whole)
    if not whole:
        best = max(fits, key=lambda fit: (len(fit.found), -len(fit.label)))
        inside = f" (in {best.label!r})" if best.label else ""
        raise FileError(f"{path.name}{inside} {best.problem}{part_hint(path)}")
    plain = [fit for fit in whole if not AVERAGED.search(fit.label.lower())] or whole
    first = plain[0]
    other = next((fit for fit in plain[1:] if not _equal(fit.found, first.found)), None)
    if other is not None:
        names = ", ".join(repr(fit.label) for fit in plain[:6])
        raise FileError(f"{path.name} holds several networks that fit: {names}; choose one with state={first.label!r}")
    return first


def _fits(state: State, target: _Target) -> Iterator[Fit]:
    for parts in ((), WRAPPERS, (*WRAPPERS, "module")):
        names = {without(name, parts): name for name in state.tensors}
        if len(names) < len(state.tensors) or (parts and set(names) == set(state.tensors)):
            continue
        metadata = {without(name, parts): noted for name, noted in state.metadata.items()}
        for prefix in _prefixes(names, target.places):
            inside = {n[len(prefix) :]: state.tensors[full] for n, full in names.items() if n.startswith(prefix)}
            fit = _translated(inside, target)
            fit.where, fit.label = state.where, f"{state.where}.{prefix}".strip(".")
            fit.metadata = {n[len(prefix) :]: noted for n, noted in metadata.items() if n.startswith(prefix)}
            fit.inside = {full for n, full in names.items() if n.startswith(prefix)}
            fit.outside = {full for n, full in names.items() if not n.startswith(prefix) and not COUNTERS.search(n)}
            yield fit


def _prefixes(names: Mapping[str, str], wanted: list[Place]) -> list[str]:
    """The possible prefixes of all names: none, and what precedes the first, a middle and the last tensor's name."""
    firm = [place for place in wanted if not COUNTERS.search(place.ours)]
    found = {""}
    for place in {firm[0], firm[len(firm) // 2], firm[-1]} if firm else ():
        for alias in place.theirs:
            found |= {name[: -len(alias)] for name in names if name.endswith(f".{alias}")}
    return sorted(found, key=lambda prefix: (len(prefix), prefix))[:MOST_PREFIXES]


def _without_others(fits: list[Fit]) -> list[Fit]:
    """The fits whose file holds nothing else but whole networks; all other fits get a problem."""
    for fit in fits:
        covered = {name for other in fits if other.where == fit.where for name in other.inside}
        rest = sorted(fit.outside - covered)
        if rest:
            fit.problem = (
                f"has tensors that this network does not take, {first_names(rest)}; build the saved network, or take "
                f"this part alone: state={fit.label!r}"
            )
    return [fit for fit in fits if fit.problem is None]


def _named(fits: list[Fit], state: str, path: Path) -> list[Fit]:
    word = state.lower()
    for match in (
        lambda label: label == word,
        lambda label: word in label.split("."),
        lambda label: word in re.split(r"[._]", label),
    ):
        found = [fit for fit in fits if match(fit.label.lower())]
        if found:
            return found
    labels = sorted({fit.label for fit in fits if fit.label})
    raise FileError(f"{path.name} holds nothing called {state!r}; it has {first_names(labels) or 'one state dict'}")


def _translated(state: dict[str, Tensor], target: _Target) -> Fit:
    """The tensors under our names, and the first thing that does not fit."""
    fit = Fit()
    banks: dict[str, tuple[Tensor, Tensor]] = {}  # assembled bases, and which rows are filled
    misfits: list[str] = []
    unshared: list[str] = []
    for place in target.places:
        name = next((name for name in place.theirs if name in state), None)
        if name is None:
            continue
        if place.unless is not None and name != place.ours:
            unshared.append(place.unless)
        if place.ours in target.fresh:
            fit.theirs.add(name)
            continue
        if place.everywhere:
            also = [other for other in place.theirs if other in state]
            fit.theirs |= {*also}
            unshared += [
                f"has {other!r} not shared as in this network; build the one it was saved from"
                for other in also
                if not _same(state[other], state[name])
            ]
        wanted, tensor = target.own[place.ours], state[name]
        if place.rows is None or name == place.ours:
            if name in fit.theirs and place.rows is None:
                misfits.append(f"has one tensor for two places: {name!r}")
            shaped = _shaped(tensor, wanted)
            fit.theirs.add(name)
            fit.found[place.ours] = tensor if shaped is None else shaped
            if shaped is None:
                misfits.append(_misfit(place.ours, tensor, wanted))
            continue
        fit.theirs.add(name)
        start, total = place.rows
        tensor = tensor.flatten(0, 1) if tensor.ndim == 5 else tensor
        bank, known = banks.setdefault(
            place.ours, (tensor.new_zeros(total, *tensor.shape[1:]), torch.zeros(total, dtype=torch.bool))
        )
        part, rows = bank[start : start + len(tensor)], known[start : start + len(tensor)]
        if part.shape != tensor.shape or bank.shape != wanted.shape:
            unshared.append(f"has {name!r} of {len(tensor)} filters; this network's bases have another number or shape")
        elif rows.any() and not torch.equal(part, tensor):
            unshared.append(f"has {name!r} not shared as in this network; build the one it was saved from")
        else:
            part.copy_(tensor)
            rows.fill_(True)
    fit.found |= {name: bank for name, (bank, known) in banks.items() if known.all()}
    problems = (unshared, _tied(fit.found, target.own), _missing(fit, target), _extra(fit, state), misfits)
    fit.problem = next(chain(*problems), None)
    return fit


def _shaped(tensor: Tensor, target: Tensor) -> Tensor | None:
    """`tensor` in the shape of `target` if only trailing sides of length 1 differ; None if shape or kind differ more."""
    plain = tensor.layout == torch.strided and not tensor.is_quantized and not tensor.is_meta
    if not plain or tensor.is_floating_point() != target.is_floating_point() or tensor.is_complex():
        return None
    short, long = sorted((tuple(tensor.shape), tuple(target.shape)), key=len)
    if long[: len(short)] != short or any(side != 1 for side in long[len(short) :]):
        return None
    return tensor.reshape(target.shape)


def _misfit(ours: str, tensor: Tensor, target: Tensor) -> str:
    if tensor.shape == target.shape:
        return f"has {tensor.dtype} ({tensor.layout}) for {ours!r}, which this weight cannot be; save plain numbers"
    return (
        f"has another shape: the tensor for {ours!r} has shape {tuple(tensor.shape)} and not {tuple(target.shape)}; build "
        "the network with the settings it was trained with, or with fresh_classifier=True if only its classes differ"
    )


def _tied(found: dict[str, Tensor], own: dict[str, Tensor]) -> Iterator[str]:
    """Give a tensor that the network holds under several names to all these names; yields an error for two different ones."""
    first: dict[int, str] = {}
    for name in own:
        if name in found and id(own[name]) not in first:
            first[id(own[name])] = name
    for name, tensor in own.items():
        source = first.get(id(tensor), name)
        if source == name:
            continue
        if name in found and not _same(found[name], found[source]):
            yield f"has different tensors for {source!r} and {name!r}, which are one tensor in this network"
        found[name] = found[source]


def _missing(fit: Fit, target: _Target) -> Iterator[str]:
    names = [n for n in target.own if n not in fit.found and n not in target.fresh and not COUNTERS.search(n)]
    if names:
        yield f"has nothing for {first_names(names)}; build the network that it was saved from"


def _extra(fit: Fit, state: dict[str, Tensor]) -> Iterator[str]:
    rest = [name for name in state if name not in fit.theirs and not COUNTERS.search(name)]
    used = [state[name] for name in fit.theirs if REPEATED.search(name)]
    dense = any("bottle_neck_layer_" in name for name in fit.theirs)
    repeated = {
        name
        for name in rest
        if REPEATED.search(name)
        and ((dense and name == NEVER_USED) or any(_same(state[name], other) for other in used))
    }
    names = [name for name in rest if name not in repeated]
    if names:
        yield f"has tensors that this network does not take, {first_names(names)}; build the network that it was saved from"


def _equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(_same(a[name], b[name]) for name in a)


def _same(a: Tensor, b: Tensor) -> bool:
    return a is b or (a.shape == b.shape and a.dtype == b.dtype and torch.equal(a, b))
