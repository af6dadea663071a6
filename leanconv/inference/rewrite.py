"""Rewrite one module of a network for inference: trace, fold, merge, and choose an accepted form for each layer."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn

from leanconv.core.affine import Affine, conv_of, folded, has_hooks
from leanconv.core.errors import LeanconvError, SettingError, first_line
from leanconv.core.layout import to_layout
from leanconv.core.modes import in_eval
from leanconv.core.operator import ConvOp, Forms, LinearOp
from leanconv.core.sharing import borrowed
from leanconv.core.spec import ConvSpec
from leanconv.inference.compare import EXACT, coarsest, difference, rounds_alike
from leanconv.inference.fold import Folded, fold_norms, is_plain_conv, plain_norm
from leanconv.inference.forms import forms_of
from leanconv.inference.graph import Call, record, rooted, trace
from leanconv.inference.merge import Branches, merge_branches

KEPT = "as it is"  # the form of a layer whose other forms are all refused


class Differs(LeanconvError):
    """A rewritten module gives other outputs than the original module."""


@dataclass
class Layer:
    """A convolution, a lean operator or branches, with the normalisation layers after it that were taken out of the graph.

    Args:
        name: its name in the graph.
        module: the layer in the dtype of inference.
        norms: the normalisation layers after it, in the same dtype.
        forms: name -> the function that builds the form, in float64.
        exact: the layer and its normalisation layers in float64.
        lean: whether its form is chosen by measuring; a plain convolution has only one form.
        form: the chosen form.
        given: an empty tensor with the shape of its input.
        refused: forms that were tried and compute something else.
    """

    name: str
    module: nn.Module
    norms: list[nn.BatchNorm2d]
    forms: Forms
    exact: nn.Module
    lean: bool
    form: str = KEPT
    given: Tensor | None = None
    refused: set[str] = field(default_factory=set)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of its weights."""
        tensors = [
            *self.module.parameters(),
            *(tensor for bank in borrowed(self.module) for tensor in bank.parameters()),
        ]
        return next((tensor.dtype for tensor in tensors if tensor.is_floating_point()), torch.float32)

    def reference(self) -> nn.Module:
        """The unchanged layer with its normalisation layers, in the dtype of inference; a plain convolution if it borrows."""
        module = self.module
        if isinstance(module, LinearOp) and any(True for _ in borrowed(module)):
            module = module.to_conv()
        return nn.Sequential(module, *self.norms) if self.norms else module

    def built(self, form: str, layout: torch.memory_format) -> nn.Module:
        """The layer in this form, in the dtype of inference."""
        if form == KEPT:
            return in_eval(self.reference())
        return to_layout(self.exactly(form).to(self.dtype), layout)

    def exactly(self, form: str) -> nn.Module:
        """The layer in this form, in float64."""
        return self.exact if form == KEPT else in_eval(copy.deepcopy(self.forms[form]()))

    def holds(self, form: str, x: Tensor, layout: torch.memory_format) -> bool:
        """Whether this form computes what the layer computes on `x`: equal in float64, and as precise in the layer's dtype."""
        wide = x.double()
        expected, reference = self.exact(wide), self.reference()(x)
        try:
            if not difference(self.exactly(form)(wide), expected).within(EXACT):
                return False
            return rounds_alike(self.built(form, layout)(x), reference, expected)
        except Exception:  # for example a kernel that does not fit on this device
            return False

    def settle(self, x: Tensor, layout: torch.memory_format, every: bool) -> None:
        """Choose the first form that is accepted on `x` and on all earlier inputs; try `every` form, or stop at this one."""
        self.form = KEPT
        for form in self.forms:
            if form not in self.refused and (every or self.form == KEPT):
                if not self.holds(form, x, layout):
                    self.refused.add(form)
                elif self.form == KEPT:
                    self.form = form


@dataclass
class Part:
    """A module of a network as a graph, and its layers with their forms.

    Args:
        name: its name in the network; "" for the network itself.
        graph: the traced graph.
        folded: the normalisation layers that were taken out.
        module, exact: the module in the dtype of inference, and in float64.
        layers: the layers that are rewritten.
        layout: the memory format of feature maps.
    """

    name: str
    graph: fx.GraphModule
    folded: Folded
    module: nn.Module
    exact: nn.Module
    layers: list[Layer]
    layout: torch.memory_format

    def name_of(self, layer: Layer) -> str:
        """The layer's name in the network."""
        return f"{self.name}.{layer.name}" if self.name else layer.name

    def built(self, forms: Mapping[str, str] | None = None) -> fx.GraphModule:
        """The module for inference.

        Args:
            forms: forms of some layers, by the layers' names in the network, in place of the chosen forms.
        """
        forms = forms or {}
        made = {
            layer.name: layer.built(forms.get(self.name_of(layer), layer.form), self.layout) for layer in self.layers
        }
        return self._with(made, self.module).requires_grad_(False)

    def exactly(self) -> fx.GraphModule:
        """The module in float64."""
        return self._with({layer.name: layer.exactly(layer.form) for layer in self.layers}, self.exact)

    def _with(self, made: dict[str, nn.Module], source: nn.Module) -> fx.GraphModule:
        root: dict[str, Any] = {}
        for node in self.graph.graph.nodes:
            target = str(node.target)
            if node.op == "call_module":
                own = self.folded.moved.get(target, target)
                root[target] = made[target] if target in made else source.get_submodule(own)
            elif node.op == "get_attr":
                root[target] = _attribute(source, target, self.graph)
        made_graph = fx.GraphModule(root, copy.deepcopy(self.graph.graph), type(self.module).__name__)
        made_graph.training = False
        return made_graph


def _attribute(source: nn.Module, target: str, graph: fx.GraphModule) -> Any:
    """A tensor that the graph reads; a tensor that tracing created is only in the graph."""
    for root in (source, graph):
        value: Any = root
        for name in target.split("."):
            value = getattr(value, name, None)
        if value is not None:
            return value
    raise SettingError(f"it reads {target}, which does not exist")


def rewrite(
    name: str, module: nn.Module, exact: nn.Module, call: Call, exact_call: Call | None, other: Call | None,
    layout: torch.memory_format, every: bool,
) -> Part:  # fmt: skip
    """`module` as a `Part` that gives the same outputs for `call`.

    Args:
        name: its name in the network.
        module, exact: the module in the dtype of inference, and in float64.
        call, exact_call: the arguments for each; None if the network does not run in float64.
        other: arguments of another batch and image size, for `exact`, or for `module` without `exact_call`; None without.
        layout: the memory format of feature maps.
        every: whether to try every form of a layer, or only until one is accepted.

    Raises:
        SettingError: the module cannot be traced, or keeps a module inside in training mode.
        Differs: the rewritten module gives other outputs.
    """
    if has_hooks(module):
        raise SettingError("it has hooks")
    training = next((name for name, inside in module.named_modules() if inside.training), None)
    if training is not None:  # its own train() does so, which a graph would not have
        raise SettingError(f"it keeps {training or 'itself'!r} in training mode")
    reference = call.on(module)
    truth = None if exact_call is None else exact_call.on(exact)
    module, exact = rooted(module), rooted(exact)
    reasons = []
    for merge in (True, False):
        part = _part(name, module, exact, call, layout, every, merge)
        reason = _part_mismatch(part, call, reference, exact_call, truth)
        if reason is None and other is not None:
            reason = _other_mismatch(part, other, exact if exact_call is not None else None)
        if reason is None:
            return part
        reasons.append(reason)
    raise Differs(reasons[-1])


def _part_mismatch(part: Part, call: Call, reference: object, exact_call: Call | None, truth: object) -> str | None:
    """How the outputs of the part differ from those of the original module; None if they are equal."""
    if exact_call is not None:
        far = difference(exact_call.on(part.exactly()), truth)
        if not far.within(EXACT):
            return str(far)
    return mismatch(call.on(part.built()), reference, None if exact_call is None else truth, part.module)


def _other_mismatch(part: Part, other: Call, exact: nn.Module | None) -> str | None:
    """How the part differs at another batch and image size, in float64 if there is an `exact` module; None if it does not."""
    try:
        if exact is None:
            reason = mismatch(other.on(part.built()), other.on(part.module), None, part.module)
        else:
            far = difference(other.on(part.exactly()), other.on(exact))
            reason = None if far.within(EXACT) else str(far)
    except Exception as error:  # the graph may hold sizes of the first call
        reason = first_line(error)
    return None if reason is None else f"at another batch and image size: {reason}"


def mismatch(found: object, reference: object, truth: object | None, network: nn.Module) -> str | None:
    """How an output differs from the network's own output by more than rounding; None if it does not.

    Args:
        found, reference: the output to check and the network's own, in the dtype of inference.
        truth: the network's output in float64; None if it does not run in float64.
        network: the network, whose weights' dtypes give the rounding.
    """
    far = difference(found, reference)
    if truth is None:
        allowed = coarsest([*network.parameters(), *network.buffers()])
        return None if far.reason is None and rounds_alike(found, reference, reference, allowed) else str(far)
    return None if rounds_alike(found, reference, truth) else str(far)


def _part(
    name: str, module: nn.Module, exact: nn.Module, call: Call, layout: torch.memory_format, every: bool, merge: bool
) -> Part:
    graph = trace(module, call)
    taken = fold_norms(graph)
    norms = {conv: _norms(module, names) for conv, names in taken.behind.items()}
    record(graph, call)
    merged = merge_branches(graph, norms) if merge else {}
    layers = []
    for target in {str(node.target): None for node in graph.graph.nodes if node.op == "call_module"}:
        layer = _layer(target, graph, exact, taken, merged, norms)
        if layer is not None:
            layers.append(layer)
    _Settler(graph, layers, layout, every).run(*call.copied().values())
    return Part(name, graph, taken, module, exact, layers, layout)


def _norms(module: nn.Module, names: tuple[str, ...]) -> list[nn.BatchNorm2d]:
    return [plain_norm(module.get_submodule(name)) for name in names]  # type: ignore[arg-type]


def _layer(
    target: str, graph: fx.GraphModule, exact: nn.Module, taken: Folded, merged: Mapping[str, tuple[str, ...]],
    norms: Mapping[str, list[nn.BatchNorm2d]],
) -> Layer | None:  # fmt: skip
    module = graph.get_submodule(target)
    if isinstance(module, Branches):
        names = merged[target]
        convs: Any = [exact.get_submodule(name) for name in names]
        wide = in_eval(Branches(convs, [_norms(exact, taken.behind.get(name, ())) for name in names]))
        return Layer(target, module, [], wide.forms(), wide, lean=True)
    if has_hooks(module) or not (isinstance(module, ConvOp) or (is_plain_conv(module) and target in norms)):
        return None
    own, behind = exact.get_submodule(target), _norms(exact, taken.behind.get(target, ()))
    affine = Affine.chain(behind)
    if isinstance(own, ConvOp):
        forms = forms_of(own, affine)
    else:
        assert isinstance(own, nn.Conv2d)
        forms = {"folded": _folding(own, affine)}
    return Layer(target, module, norms.get(target, []), forms, nn.Sequential(own, *behind), isinstance(own, ConvOp))


def _folding(conv: nn.Conv2d, affine: Affine | None) -> Callable[[], nn.Module]:
    return lambda: conv_of(ConvSpec.of(conv), *folded(conv.weight, conv.bias, affine))


class _Settler(fx.Interpreter):
    """Runs a graph like the network, and chooses each layer's form on the layer's input."""

    def __init__(self, graph: fx.GraphModule, layers: list[Layer], layout: torch.memory_format, every: bool) -> None:
        super().__init__(graph)
        self.layers, self.layout, self.every = {layer.name: layer for layer in layers}, layout, every

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        layer = self.layers.get(str(target))
        if layer is None:
            return super().call_module(target, args, kwargs)
        (x,) = (*args, *kwargs.values())
        if layer.given is None:
            layer.given = torch.empty_like(x)
        layer.settle(x, self.layout, self.every)
        return layer.reference()(x)
