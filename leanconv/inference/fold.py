"""Norms into the convolutions before them."""

from __future__ import annotations

import sys

from torch import fx, nn

from leanconv.core.operator import ConvOp
from leanconv.inference.affine import Affine
from leanconv.inference.graph import module_of


def fold_norms(graph: fx.GraphModule) -> dict[str, Affine]:
    """Take every norm that stands right behind a convolution out of `graph`; its layer's name -> what the norm did.

    A convolution that is called twice, or whose output is used elsewhere too, keeps its norm.
    """
    affines: dict[str, Affine] = {}
    for node in list(graph.graph.nodes):
        norm = module_of(graph, node)
        if not isinstance(norm, nn.BatchNorm2d) or norm.running_mean is None:
            continue
        before = node.args[0]
        conv = module_of(graph, before)
        if not isinstance(conv, ConvOp | nn.Conv2d) or len(before.users) != 1 or not _plain(norm):
            continue
        name, affine = str(before.target), Affine.of(norm)
        affines[name] = affines[name].then(affine) if name in affines else affine
        activation = getattr(norm, "act", None)
        if isinstance(activation, nn.Module) and not isinstance(activation, nn.Identity):
            graph.set_submodule(str(node.target), activation)  # timm's norms have their activation inside
        else:
            node.replace_all_uses_with(before)
            graph.graph.erase_node(node)
    graph.recompile()
    return affines


def _plain(norm: nn.BatchNorm2d) -> bool:
    """Whether `norm` does what an ``nn.BatchNorm2d`` does, with at most an activation behind it."""
    layers = sys.modules.get("timm.layers")
    return type(norm) is nn.BatchNorm2d or (layers is not None and type(norm) is layers.BatchNormAct2d)
