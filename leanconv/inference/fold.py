"""Find normalisation layers directly after convolutions, to fold them into these convolutions."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field

from torch import fx, nn

from leanconv.core.affine import foldable, has_hooks
from leanconv.core.modes import in_eval
from leanconv.core.operator import ConvOp
from leanconv.inference.graph import given, module_of, uses_of


@dataclass
class Folded:
    """The normalisation layers that were taken out of a module's graph. All names are those of the module itself.

    Args:
        behind: a convolution's name -> the normalisation layers after it, in their order.
        moved: a layer's name in the graph -> its name in the module, for layers in the place of a normalisation layer.
    """

    behind: dict[str, tuple[str, ...]] = field(default_factory=dict)
    moved: dict[str, str] = field(default_factory=dict)


def fold_norms(graph: fx.GraphModule) -> Folded:
    """Take every normalisation layer directly after a convolution out of `graph`.

    A convolution keeps its normalisation layer if it is called twice, or if its output or weight is also used elsewhere.
    """
    folded, uses = Folded(), uses_of(graph)
    for node in list(graph.graph.nodes):
        norm, before = module_of(graph, node, uses), given(node)
        if norm is None or before is None or not is_plain_norm(norm):
            continue
        conv = module_of(graph, before, uses)
        if not (isinstance(conv, ConvOp) or is_plain_conv(conv)) or len(before.users) != 1:
            continue
        name, target = str(before.target), str(node.target)
        folded.behind[name] = (*folded.behind.get(name, ()), target)
        activation = getattr(norm, "act", None)
        if isinstance(activation, nn.Module) and not isinstance(activation, nn.Identity):
            graph.set_submodule(target, activation)  # timm's normalisation layers contain their activation
            folded.moved[target] = f"{target}.act"
            node.args, node.kwargs = (before,), {}
        else:
            node.replace_all_uses_with(before)
            graph.graph.erase_node(node)
    graph.recompile()
    return folded


def is_plain_conv(module: nn.Module | None) -> bool:
    """Whether `module` computes what ``nn.Conv2d`` computes: an ``nn.Conv2d``, or a subclass that does not change this.

    >>> is_plain_conv(nn.Conv2d(3, 3, 1)), is_plain_conv(nn.ReLU())
    (True, False)
    """
    if not isinstance(module, nn.Conv2d) or has_hooks(module) or "forward" in vars(module):
        return False
    kind = type(module)
    return kind.forward is nn.Conv2d.forward and kind._conv_forward is nn.Conv2d._conv_forward


def is_plain_norm(module: nn.Module) -> bool:
    """Whether `module` in eval mode computes ``nn.BatchNorm2d`` with running statistics, with at most an activation after it.

    >>> is_plain_norm(nn.BatchNorm2d(3).eval())
    True
    """
    if foldable(module):
        return True
    layers = sys.modules.get("timm.layers")
    if layers is None or type(module) is not layers.BatchNormAct2d or has_hooks(module) or "forward" in vars(module):
        return False
    return isinstance(module, nn.BatchNorm2d) and foldable(plain_norm(module)) and not module.training


def plain_norm(norm: nn.BatchNorm2d) -> nn.BatchNorm2d:
    """The normalisation layer alone, without the activation inside; it shares its tensors with `norm`."""
    made = nn.BatchNorm2d(norm.num_features, norm.eps, affine=False, device="meta")
    for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
        setattr(made, name, getattr(norm, name))
    made.affine = norm.weight is not None
    return in_eval(made)
