"""Walk through a network layer by layer on fixed images, and compute its output from any layer on with other modules.

A candidate for a layer changes nothing before that layer. So the walk keeps the values that are alive at the layer, and each
candidate costs only the rest of the forward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_map

from leanconv.conversion.apply import swap
from leanconv.core.copying import copied
from leanconv.core.errors import SettingError
from leanconv.core.modes import input_of
from leanconv.inference.compare import ROUNDING, difference, leaves
from leanconv.inference.graph import Call, rooted, trace


class Walk:
    """A network on fixed images, at one of its layers.

    If the network cannot be traced, each output is computed from the start.

    Args:
        model: the network, in eval mode. During a call, other modules may replace its layers; afterwards it is unchanged.
        images: the images, (N, C, H, W).

    >>> net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1)).eval()
    >>> walk = Walk(net, torch.ones(1, 3, 2, 2))
    >>> walk.go("2")
    >>> walk.given.shape, walk.traced
    (torch.Size([1, 4, 2, 2]), True)
    >>> bool((walk.output({"2": nn.Conv2d(4, 2, 1).requires_grad_(False).eval()}) == net(torch.ones(1, 3, 2, 2))).all())
    False
    """

    def __init__(self, model: nn.Module, images: Tensor) -> None:
        self.model, self.images = model, images
        self.calls: list[tuple[Tensor, Tensor]] = []
        self._steps = steps_of(model, images)

    @property
    def traced(self) -> bool:
        """Whether the network is a graph, so that a candidate costs only the rest of the forward pass."""
        return self._steps is not None

    @property
    def given(self) -> Tensor:
        """The input of the first call of the present layer."""
        return self.calls[0][0]

    @property
    def dense(self) -> Tensor:
        """The output of the first call of the present layer."""
        return self.calls[0][1]

    @torch.no_grad()
    def go(self, name: str, calls: int = 1) -> None:
        """Go forward to the first call of a layer; `calls` then holds the inputs and outputs of its first calls.

        Args:
            name: a layer that is called later than the present one.
            calls: how many to note; several cost the rest of the forward pass.
        """
        seen: list[tuple[Tensor, Tensor]] = []

        def note(module: nn.Module, args: tuple[Tensor, ...], named: dict[str, Tensor], output: Tensor) -> None:
            if len(seen) < calls:
                seen.append((input_of(args, named).clone(), output.clone()))

        if self._steps is not None:
            self._steps.go(name)
        hook = self.model.get_submodule(name).register_forward_hook(note, with_kwargs=True)
        try:
            if self._steps is None:
                self.model(self.images)
            elif calls == 1:
                self._steps.once()
            else:
                self._steps.rest()
        finally:
            hook.remove()
        self.calls = seen

    @torch.no_grad()
    def output(self, new: Mapping[str, nn.Module] = {}) -> Any:
        """The output of the network.

        Args:
            new: the modules that replace layers, by the layers' names; none of the layers is called before the present one.
        """
        with replaced(self.model, new):
            return self.model(self.images) if self._steps is None else self._steps.rest()


@contextmanager
def replaced(model: nn.Module, new: Mapping[str, nn.Module]) -> Iterator[None]:
    """Within the block, `model` has the modules `new` in place of its layers of these names."""
    old = {name: model.get_submodule(name) for name in new}
    swap(model, {id(old[name]): module for name, module in new.items()})
    try:
        yield
    finally:
        swap(model, {id(module): old[name] for name, module in new.items()})


def steps_of(model: nn.Module, images: Tensor) -> Steps | None:
    """The steps of a network at their start; None if the network cannot be traced, or if they give another output."""
    if rooted(model) is not model:
        return None
    try:  # tracing runs the network's code, which may store what it traces with in the network
        steps = Steps(trace(copied(model), Call((images,))), model, images)
    except SettingError:
        return None
    return steps if _alike(steps, model, images) else None


@torch.no_grad()
def _alike(steps: Steps, model: nn.Module, images: Tensor) -> bool:
    """Whether the steps give what the network gives, whose code may ask for what a trace does not know."""
    try:
        found = steps.rest()
    except Exception:  # the network's own code, in an order or with values that it does not have otherwise
        return False
    expected = model(images.clone())
    dtype = next((leaf.dtype for _, leaf in leaves(expected) if isinstance(leaf, Tensor)), torch.float32)
    return difference(found, expected).within(ROUNDING.get(dtype, ROUNDING[torch.float32]))


class Steps:
    """The steps of a graph: the values that are alive at one step, and the way from there to the output.

    Args:
        graph: the trace of `model`, or of a copy.
        model: the network, whose present modules are called.
        images: the input.
    """

    def __init__(self, graph: fx.GraphModule, model: nn.Module, images: Tensor) -> None:
        self.model, self.graph = model, graph
        self.nodes = list(graph.graph.nodes)
        last = {source: node for node in self.nodes for source in node.all_input_nodes}
        self.dead: dict[fx.Node, list[fx.Node]] = {}
        for source, node in last.items():
            self.dead.setdefault(node, []).append(source)
        self.images = images
        self.place = 0
        self.alive: dict[fx.Node, Any] = {}

    def go(self, name: str) -> None:
        """Stop before the first call, from the present step on, of the layer or of a module that contains the layer."""
        while not self.calls(name):
            self.step()

    def once(self) -> None:
        """Run the present step without going forward."""
        self._value(self.nodes[self.place], self._copied())

    def rest(self) -> Any:
        """Run all steps from the present one on copies of the values that are alive, because a step may work in place."""
        values = self._copied()
        for node in self.nodes[self.place : -1]:
            self._run(node, values)
        return fx.node.map_arg(self.nodes[-1].args[0], lambda node: values[node])

    def _copied(self) -> dict[fx.Node, Any]:
        clone: Callable[[Any], Any] = lambda value: value.clone() if isinstance(value, Tensor) else value  # noqa: E731
        return {node: tree_map(clone, value) for node, value in self.alive.items()}

    def calls(self, name: str) -> bool:
        """Whether the present step calls the layer, or a module that contains the layer."""
        node = self.nodes[self.place]
        return node.op == "call_module" and f"{name}.".startswith(f"{node.target}.")

    def step(self) -> None:
        """Run the present step, and go to the next."""
        self._run(self.nodes[self.place], self.alive)
        self.place += 1

    def _run(self, node: fx.Node, values: dict[fx.Node, Any]) -> None:
        values[node] = self._value(node, values)
        for source in self.dead.get(node, ()):
            values.pop(source, None)

    def _value(self, node: fx.Node, values: Mapping[fx.Node, Any]) -> Any:
        if node.op == "placeholder":
            return self.images.clone()
        if node.op == "get_attr":
            try:
                return _attribute(self.model, str(node.target))
            except AttributeError:  # a constant of the trace
                return _attribute(self.graph, str(node.target))
        args = fx.node.map_arg(node.args, lambda source: values[source])
        kwargs = fx.node.map_arg(node.kwargs, lambda source: values[source])
        if node.op == "call_module":
            return self.model.get_submodule(str(node.target))(*args, **kwargs)
        if node.op == "call_method":
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        assert callable(node.target)
        return node.target(*args, **kwargs)


def _attribute(model: nn.Module, name: str) -> Any:
    where, _, own = name.rpartition(".")
    return getattr(model.get_submodule(where), own)
