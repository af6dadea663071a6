"""A network as a graph whose nodes are its layers, and what can be read off it."""

from __future__ import annotations

import operator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from leanconv.core.errors import SettingError
from leanconv.core.operator import ConvOp

RELUS = (F.relu, torch.relu)


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        whole = isinstance(m, ConvOp | nn.Conv2d | nn.BatchNorm2d)
        return whole or super().is_leaf_module(m, module_qualified_name)


def trace(model: nn.Module) -> fx.GraphModule:
    """`model` as a graph of layers; the graph's modules are the model's own.

    Raises:
        SettingError: its forward depends on values that are known only when it runs.
    """
    root = nn.Sequential(model) if isinstance(model, ConvOp | nn.Conv2d | nn.BatchNorm2d) else model
    try:
        graph = _Tracer().trace(root)
    except Exception as error:  # tracing runs the network's own code, which raises what it likes
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise SettingError(
            f"{type(model).__name__} cannot be traced: {reason}; give optimize the part of it that can be"
        ) from error
    return fx.GraphModule(root, graph)


def module_of(graph: fx.GraphModule, node: Any) -> nn.Module | None:
    """The layer that `node` calls; None where it calls none, or where another node calls it too."""
    if not isinstance(node, fx.Node) or node.op != "call_module":
        return None
    calls = [other for other in graph.graph.nodes if other.op == "call_module" and other.target == node.target]
    return graph.get_submodule(str(node.target)) if len(calls) == 1 else None


def is_relu(graph: fx.GraphModule, node: fx.Node) -> bool:
    """Whether `node` is a ReLU, as a layer or as a function."""
    if node.op == "call_module":
        return type(graph.get_submodule(str(node.target))) is nn.ReLU
    return node.target in RELUS or (node.op == "call_method" and node.target in ("relu", "relu_"))


def is_item(node: fx.Node) -> bool:
    """Whether `node` takes one part, by number, of what a split returned."""
    return node.op == "call_function" and node.target is operator.getitem and isinstance(node.args[1], int)


class _Recorder(fx.Interpreter):
    """Runs a graph and keeps what the layers were given: on the meta device, so shapes and layouts alone."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.inputs: dict[fx.Node, Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        if n.op == "call_module":
            value = self.env.get(n.args[0]) if n.args and isinstance(n.args[0], fx.Node) else None
            if isinstance(value, Tensor):
                self.inputs[n] = torch.empty_like(value, device="meta")
        out = super().run_node(n)
        if isinstance(out, Tensor):
            n.meta["shape"] = tuple(out.shape)
        return out


@torch.no_grad()
def record(graph: fx.GraphModule, example: Tensor) -> dict[fx.Node, Tensor]:
    """What each layer is given when `example` runs through: meta tensors of that shape, dtype and memory format.

    Every node's ``meta["shape"]`` is set to the shape of its output.
    """
    recorder = _Recorder(graph)
    recorder.run(example)
    return recorder.inputs
