"""Rules for copying, saving, tracing, compiling and exporting."""

from __future__ import annotations

import copy
import inspect
import io
import json
import pickle
import tempfile
import warnings
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor, fx
from torch.export import Dim

from leanconv.conversion.apply import plan_of
from leanconv.conversion.check import check
from leanconv.core.errors import LeanconvWarning
from leanconv.core.method import Method
from leanconv.core.spec import ConvSpec
from leanconv.files.load import load
from leanconv.files.save import save
from leanconv.testing.networks import close, image, lean_network, network, require
from leanconv.testing.rules import FEW, NAMED_SIZES, ONCE, SOME, rule


@rule(ONCE)
def its_settings_make_it_again(method: Method, spec: ConvSpec) -> None:
    """A frozen dataclass, equal after its settings were text."""
    kind = type(method)
    names = [field.name for field in fields(kind)]
    loose = [
        name
        for name, hint in inspect.get_annotations(kind).items()
        if name not in names and "ClassVar" not in str(hint)
    ]
    require(not loose, f"{loose} are no settings: write @dataclass(frozen=True) above the class {kind.__name__}")
    again = kind.from_settings(json.loads(json.dumps(method.settings())))
    require(
        again == method and hash(again) == hash(method),
        f"{again.label()} is made from the settings of {method.label()}",
    )


@rule(SOME)
def copies_pickles_and_moves(method: Method, spec: ConvSpec) -> None:
    """Every way in which torch copies a module keeps the output and the sharing of weights."""
    lean, x = lean_network(method, spec), image(spec)
    wanted = lean(x)

    def same(other: Any, what: str, tolerance: float = 1e-12) -> None:
        check(other)
        found = other(x.to(next(other.parameters()).dtype))
        close([y.double() for y in found], wanted, what, tolerance)

    copied = copy.deepcopy(lean)
    same(copied, "a deep copy gives another output")
    both = {id(p) for p in copied.parameters()} & {id(p) for p in lean.parameters()}
    require(not both, "a deep copy shares parameters with the original")
    same(pickle.loads(pickle.dumps(lean)), "a pickled network gives another output")  # noqa: S301  written here
    state = _stored(lean)
    require(len({t.data_ptr() for t in state.values()}) == len(state), "the state dict holds a tensor twice")
    fresh = lean_network(method, spec)
    fresh.load_state_dict({key: torch.zeros_like(value) for key, value in state.items()})
    fresh.load_state_dict(state, strict=True)
    same(fresh, "a network that loads the state dict gives another output")
    lost = sorted({name for module in lean.modules() for name in module._non_persistent_buffers_set})
    require(
        not lost,
        f"the buffers {lost} are not in the state dict, so that to_empty() loses them: register them with persistent=True, "
        "or compute them in convolve",
    )
    empty = copy.deepcopy(lean).to("meta").to_empty(device="cpu")
    empty.load_state_dict(state, assign=True)
    same(empty, "a network gives another output after to_empty() and load_state_dict()")
    same(copy.deepcopy(lean).float(), "in float32 the output differs", 1e-3)
    last = copy.deepcopy(lean).to(memory_format=torch.channels_last)
    same(last, "with weights in channels_last the output differs")
    close(last(x.to(memory_format=torch.channels_last)), wanted, "on a map in channels_last the output differs")


def _stored(model: Any) -> dict[str, Tensor]:
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    buffer.seek(0)
    state: dict[str, Tensor] = torch.load(buffer, weights_only=True)
    return state


@rule(SOME)
def saves_and_loads(method: Method, spec: ConvSpec) -> None:
    """A saved and loaded network has the same output and the same plan."""
    lean, x = lean_network(method, spec), image(spec)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", LeanconvWarning
        )  # the class may be defined in a notebook, which only this process can load
        save(lean, folder)
        loaded = load(folder, model=network(spec))
    require(all(torch.equal(a, b) for a, b in zip(loaded(x), lean(x), strict=True)), "the loaded network differs")
    require(plan_of(loaded) == plan_of(lean), "the loaded plan differs")


@rule(FEW)
def traces_compiles_and_exports(method: Method, spec: ConvSpec) -> None:
    """torch.fx, torch.compile in one graph, and torch.export keep the output, also with a dynamic batch and map size."""
    lean, x = lean_network(method, spec), image(spec)
    wanted, other = lean(x), image(spec, (7, 9), n=3)
    traced = fx.symbolic_trace(lean)
    close(traced(x), wanted, "traced with torch.fx, the output differs")
    close(
        traced(other), lean(other), "a trace is right for one map size only: do not branch on shapes, nor unpack them"
    )
    torch._dynamo.reset()
    compiled: Any = torch.compile(lean, backend="aot_eager", fullgraph=True)
    close(compiled(x), wanted, "compiled, the output differs")
    exported = torch.export.export(lean, (x,))
    close(exported.module()(x), wanted, "exported, the output differs")
    require(len(exported.state_dict) == len(lean.state_dict()), "an export holds a shared tensor twice")
    dynamic = {0: Dim.AUTO, 2: Dim.AUTO, 3: Dim.AUTO}
    flexible = torch.export.export(lean, (x,), dynamic_shapes=(dynamic,)).module()
    close(flexible(other), lean(other), "exported with dynamic sizes, the output differs")


@rule(NAMED_SIZES)
def exports_with_named_sizes(method: Method, spec: ConvSpec) -> None:
    """torch.export accepts ranges of sizes, and the exported network is right for all of them."""
    lean = lean_network(method, spec)
    sizes = {0: Dim("n", min=1, max=64), 2: Dim("h", min=4, max=512), 3: Dim("w", min=4, max=512)}
    exported = torch.export.export(lean, (image(spec),), dynamic_shapes=(sizes,)).module()
    for size in ((8, 10), (7, 9), (5, 4), (6, 13)):
        for n in (1, 3):
            x = image(spec, size, n)
            close(exported(x), lean(x), f"exported, the output differs on {n} maps of {size}")
