"""A module as a graph whose nodes are its layers, and functions that read the graph."""

from __future__ import annotations

import inspect
import itertools
import operator
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_map

from leanconv.core.affine import has_hooks
from leanconv.core.errors import SettingError, first_line
from leanconv.core.operator import ConvOp

RELUS = (F.relu, torch.relu)
LAYERS = (ConvOp, nn.Conv2d, nn.BatchNorm2d)  # the layers that a graph is traced for
PLAIN = (type(None), bool, int, float, complex, str)


@dataclass(frozen=True)
class Call:
    """The arguments with which a module was called."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)

    def copied(self) -> Call:
        """The call with its own copies of the tensors, because a network may change its input in place."""
        args, kwargs = tree_map(
            lambda value: value.clone() if isinstance(value, Tensor) else value, (self.args, self.kwargs)
        )
        return Call(args, kwargs)

    def on(self, module: Callable[..., Any]) -> Any:
        """The output of `module` for this call; the call's own tensors stay unchanged."""
        own = self.copied()
        return module(*own.args, **own.kwargs)

    def values(self) -> list[Any]:
        """The arguments in the order of a graph's placeholders."""
        return [*self.args, *self.kwargs.values()]

    def same_pattern(self, other: Call) -> bool:
        """Whether both calls pass the same arguments in the same way; values are not compared."""
        kinds = ([isinstance(value, PLAIN) for value in call.values()] for call in (self, other))
        return (
            len(self.args) == len(other.args) and list(self.kwargs) == list(other.kwargs) and next(kinds) == next(kinds)
        )


def _casts() -> list[tuple[bool, torch.dtype]]:
    """Whether autocast is on, and its dtype, for the devices of inference."""
    return [(torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)) for device in ("cpu", "cuda")]


class _Tracer(fx.Tracer):
    """Traces a module with exactly the arguments of `call`; all others have their defaults."""

    def __init__(self, call: Call) -> None:
        super().__init__()
        self.call, self.casts = call, _casts()

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        if _casts() != self.casts:
            raise SettingError("it switches autocast, which a graph of its layers would not do")
        return super().create_node(*args, **kwargs)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if isinstance(m, LAYERS) or not any(isinstance(inside, LAYERS) for inside in m.modules()):
            return True  # it has no layer to rewrite, and may have any code
        if has_hooks(m):
            return True  # a graph of its layers would not call the hooks
        return super().is_leaf_module(m, module_qualified_name)

    def create_args_for_root(self, root_fn: Any, is_module: bool, concrete_args: Any = None) -> tuple[Any, list[Any]]:
        names = [*_names(self.root, len(self.call.args)), *self.call.kwargs]
        proxies = [self.create_proxy("placeholder", name, (), {}) for name in names]
        args, rest = proxies[: len(self.call.args)], proxies[len(self.call.args) :]

        def forward() -> Any:
            return self.root.forward(*args, **dict(zip(self.call.kwargs, rest, strict=True)))

        return forward, []


def _names(module: nn.Module, count: int) -> list[str]:
    """The module's own names for its first arguments."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    found = [name for name, p in inspect.signature(module.forward).parameters.items() if p.kind in kinds][:count]
    return [*found, *(f"input_{index}" for index in range(len(found), count))]


def rooted(module: nn.Module) -> nn.Module:
    """`module`, or a module around it if it is itself a layer that a graph calls."""
    return nn.Sequential(module) if isinstance(module, LAYERS) else module


def trace(module: nn.Module, call: Call) -> fx.GraphModule:
    """The graph of the layers of `module` for this call; the graph's modules are the module's own.

    Raises:
        SettingError: the forward pass depends on values that are known only when it runs, or on arguments that are not
            tensors, or it switches autocast, or the module has hooks.

    >>> graph = trace(nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU()), Call((torch.zeros(1, 3, 4, 4),)))
    >>> [str(node.target) for node in graph.graph.nodes if node.op == "call_module"]
    ['0', '1']
    """
    if any(isinstance(value, PLAIN) for value in call.values()):
        raise SettingError("it is called with more than tensors")
    if has_hooks(module):
        raise SettingError("it has hooks")
    tracer = _Tracer(call)
    try:
        graph = tracer.trace(module)
        _by_position(tracer.root, graph)
        return fx.GraphModule(tracer.root, graph, type(module).__name__)
    except Exception as error:  # tracing runs the network's own code, which may raise anything
        raise SettingError(f"it cannot be traced: {first_line(error)}") from error


def _by_position(root: nn.Module, graph: fx.Graph) -> None:
    """Let `graph` pass layers their input by position: a module in the place of a layer may give it another name."""
    for node in graph.nodes:
        if (
            node.op == "call_module"
            and [*node.kwargs] == ["input"]
            and isinstance(root.get_submodule(str(node.target)), LAYERS)
        ):
            node.args, node.kwargs = (node.kwargs["input"],), {}


def given(node: fx.Node) -> fx.Node | None:
    """The only value with which `node` is called, by position or by keyword; None if it has several values or none."""
    values = [*node.args, *node.kwargs.values()]
    return values[0] if len(values) == 1 and isinstance(values[0], fx.Node) else None


def argument(node: fx.Node, place: int, names: Sequence[str], default: Any = None) -> Any:
    """One argument of a call: by one of its `names`, or at its position `place`; else `default`.

    Args:
        node: the call.
        place: the position of the argument.
        names: the keywords of the argument.
        default: the value if the call does not pass the argument.
    """
    found = [node.kwargs[name] for name in names if name in node.kwargs]
    if found:
        return found[0]
    return node.args[place] if len(node.args) > place else default


def uses_of(graph: fx.GraphModule) -> Counter[str]:
    """How many nodes call or read a module, or something inside it, by the module's name."""
    uses: Counter[str] = Counter()
    for node in graph.graph.nodes:
        if node.op in ("call_module", "get_attr"):
            uses.update(itertools.accumulate(str(node.target).split("."), "{}.{}".format))
    return uses


def module_of(graph: fx.GraphModule, node: Any, uses: Mapping[str, int]) -> nn.Module | None:
    """The layer that only `node` calls, and of which no other node reads anything; None otherwise, or if it has hooks.

    Args:
        graph: the traced module.
        node: the node of the call.
        uses: the result of `uses_of` for the graph, or for the graph before nodes were taken out of it.
    """
    if not isinstance(node, fx.Node) or node.op != "call_module" or uses[str(node.target)] != 1:
        return None
    module = graph.get_submodule(str(node.target))
    return None if has_hooks(module) else module


def is_relu(graph: fx.GraphModule, node: fx.Node) -> bool:
    """Whether `node` is a ReLU of one value, as a layer or as a function."""
    if node.op == "call_module":
        module = graph.get_submodule(str(node.target))
        return type(module) is nn.ReLU and not has_hooks(module)
    return node.target in RELUS or (node.op == "call_method" and node.target in ("relu", "relu_"))


def is_item(node: fx.Node) -> bool:
    """Whether `node` takes one part, by its number, of the output of a split."""
    return node.op == "call_function" and node.target is operator.getitem and isinstance(node.args[1], int)


class _Recorder(fx.Interpreter):
    """Runs a graph and records the shape of every output."""

    def run_node(self, n: fx.Node) -> Any:
        out = super().run_node(n)
        n.meta.pop("shape", None)
        if isinstance(out, Tensor):
            n.meta["shape"] = tuple(out.shape)
        return out


@torch.no_grad()
def record(graph: fx.GraphModule, call: Call) -> Any:
    """Run `graph`; ``meta["shape"]`` of every node is then the shape of its output, if this is a tensor.

    Args:
        graph: the traced module.
        call: the arguments.

    Returns:
        the output of the graph.
    """
    return _Recorder(graph).run(*call.copied().values())
