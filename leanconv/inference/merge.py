"""Convolutions side by side, each on its part of one map's channels: one grouped convolution on the whole map."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor, fx, nn

from leanconv.core.operator import LinearOp
from leanconv.core.spec import ConvSpec, divisors
from leanconv.inference.affine import Affine, conv_of, folded, with_affine
from leanconv.inference.forms import forms_of
from leanconv.inference.forms.grouped import diagonal
from leanconv.inference.forms.types import Forms
from leanconv.inference.graph import is_item, is_relu, module_of

Branch = LinearOp | nn.Conv2d


def spec_of(conv: Branch) -> ConvSpec:
    """The convolution that a layer is or stands for."""
    return conv.spec if isinstance(conv, LinearOp) else ConvSpec.of(conv)


class Branches(nn.Module):
    """Convolutions that each take a part of the input's channels, and whose outputs are stacked.

    Shape:
        x: (N, sum of in_channels, H, W) -> (N, sum of out_channels, H', W').
    """

    def __init__(self, convs: Sequence[Branch], affines: Sequence[Affine | None]) -> None:
        super().__init__()
        self.convs, self.affines = nn.ModuleList(convs), tuple(affines)
        self.parts = [conv.in_channels for conv in convs]

    def forward(self, x: Tensor) -> Tensor:
        parts = x.split(self.parts, 1)
        maps = [with_affine(conv, self.affines[i])(parts[i]) for i, conv in enumerate(self.convs)]
        return torch.cat(maps, 1)

    def forms(self) -> Forms:
        """Each on its own; or one convolution on the whole map, in as many groups as the weights' zeros allow, or fewer."""
        pairs = [_dense(conv, affine) for conv, affine in zip(self.convs, self.affines, strict=True)]
        weight = _block_diagonal([weight for weight, _ in pairs])
        biases = [shift for _, shift in pairs]
        bias = torch.cat(biases) if all(shift is not None for shift in biases) else None  # type: ignore[arg-type]
        spec = replace(spec_of(self.convs[0]), in_channels=weight.shape[1], out_channels=len(weight), groups=1)  # type: ignore[arg-type]
        nonzero = weight.count_nonzero()
        found: Forms = {}
        for groups in reversed(divisors(spec.in_channels, spec.out_channels)):
            part = diagonal(weight, 1, groups)
            if groups <= len(self.convs) and part.count_nonzero() == nonzero:
                found[f"merged({groups})"] = lambda part=part, groups=groups: conv_of(spec, part, bias, groups)  # type: ignore[misc]
        found["separate"] = self._separate
        return found

    def _separate(self) -> nn.Module:
        convs = []
        for conv, affine in zip(self.convs, self.affines, strict=True):
            if isinstance(conv, LinearOp):
                convs.append(next(iter(forms_of(conv, affine).values()))())
            else:
                assert isinstance(conv, nn.Conv2d)
                convs.append(conv_of(ConvSpec.of(conv), *folded(conv.weight, conv.bias, affine)))
        return Separate(convs, self.parts)


class Separate(nn.Module):
    """`Branches`, one after the other."""

    def __init__(self, convs: Sequence[nn.Module], parts: Sequence[int]) -> None:
        super().__init__()
        self.convs, self.parts = nn.ModuleList(convs), list(parts)

    def forward(self, x: Tensor) -> Tensor:
        parts = x.split(self.parts, 1)
        return torch.cat([conv(parts[index]) for index, conv in enumerate(self.convs)], 1)


def _dense(conv: nn.Module, affine: Affine | None) -> tuple[Tensor, Tensor | None]:
    """Weight (O, I, kh, kw), without groups, and bias."""
    if isinstance(conv, LinearOp):
        weight, bias, groups = conv.weight_dense(), conv.bias_dense(), conv.groups
    else:
        assert isinstance(conv, nn.Conv2d)
        weight, bias, groups = conv.weight, conv.bias, conv.groups
    weight, bias = folded(weight, bias, affine)
    return _block_diagonal(weight.chunk(groups)), bias


def _block_diagonal(weights: Sequence[Tensor]) -> Tensor:
    rows, columns = sum(len(w) for w in weights), sum(w.shape[1] for w in weights)
    whole = weights[0].new_zeros(rows, columns, *weights[0].shape[2:])
    row = column = 0
    for weight in weights:
        whole[row : row + len(weight), column : column + weight.shape[1]] = weight
        row, column = row + len(weight), column + weight.shape[1]
    return whole


@dataclass(frozen=True)
class _Found:
    split: fx.Node
    convs: list[fx.Node]
    ends: list[fx.Node]  # the convolutions, or the ReLUs right behind them


def merge_branches(graph: fx.GraphModule, affines: dict[str, Affine]) -> None:
    """Put one `Branches` in place of the parallel convolutions behind each split of a map's channels.

    All branches have the same kernel, stride, padding and dilation, and all or none have a ReLU behind. The nodes of
    `graph` must know their shapes (`leanconv.inference.graph.record`).
    """
    for node in list(graph.graph.nodes):
        found = _parallel(graph, node)
        if found is None:
            continue
        name = str(found.convs[0].target).replace(".", "_") + "_branches"
        convs = [cast(Branch, graph.get_submodule(str(conv.target))) for conv in found.convs]
        module = Branches(convs, [affines.pop(str(conv.target), None) for conv in found.convs])
        graph.add_submodule(name, module.eval())
        with graph.graph.inserting_before(found.convs[0]):
            out = graph.graph.call_module(name, (found.split.args[0],))
        shape = found.split.args[0].meta["shape"]  # type: ignore[union-attr]
        end_shape = found.ends[0].meta["shape"]
        widths = [conv.out_channels for conv in convs]
        if found.ends != found.convs:
            with graph.graph.inserting_after(out):
                out = graph.graph.call_function(torch.relu, (out,))
        out.meta["shape"] = (shape[0], sum(widths), *end_shape[2:])
        with graph.graph.inserting_after(out):
            parts = graph.graph.call_function(torch.split, (out, widths, 1))
        for index, end in enumerate(found.ends):
            with graph.graph.inserting_after(parts):
                item = graph.graph.call_function(operator.getitem, (parts, index))
            item.meta["shape"] = end.meta["shape"]
            end.replace_all_uses_with(item)
        _join(graph, parts, out)
    graph.graph.eliminate_dead_code()
    graph.graph.lint()
    graph.recompile()


def _parallel(graph: fx.GraphModule, node: fx.Node) -> _Found | None:
    if node.target not in ("split", "chunk", torch.split, torch.chunk) or node.op == "call_module":
        return None
    items = sorted((user for user in node.users if is_item(user)), key=lambda item: item.args[1])  # type: ignore[arg-type,return-value]
    if len(items) < 2 or len(items) != len(node.users) or [i.args[1] for i in items] != list(range(len(items))):
        return None
    convs = [next(iter(item.users)) for item in items if len(item.users) == 1]
    modules = [module_of(graph, conv) for conv in convs]
    if len(convs) != len(items) or not all(isinstance(m, LinearOp) or type(m) is nn.Conv2d for m in modules):
        return None
    specs = [spec_of(m) for m in modules]  # type: ignore[arg-type]
    alike = {(s.kernel_size, s.stride, s.padding, s.dilation, s.padding_mode) for s in specs}
    source = node.args[0].meta.get("shape")  # type: ignore[union-attr]
    if len(alike) > 1 or source is None or sum(s.in_channels for s in specs) != source[1]:
        return None
    behind = [next(iter(conv.users)) for conv in convs if len(conv.users) == 1]
    relus = len(behind) == len(convs) and all(is_relu(graph, user) for user in behind)
    return _Found(node, convs, behind if relus else convs)


def _join(graph: fx.GraphModule, parts: fx.Node, whole: fx.Node) -> None:
    """Where all parts are concatenated in their order, take the whole."""
    items = sorted(parts.users, key=lambda item: item.args[1])  # type: ignore[arg-type,return-value]
    for node in {user for item in items for user in item.users}:
        if node.target not in (torch.cat, torch.concat) or not isinstance(node.args[0], list | tuple):
            continue
        inputs = list(node.args[0])
        for start in range(len(inputs) - len(items) + 1):
            if inputs[start : start + len(items)] == items:
                node.update_arg(0, [*inputs[:start], whole, *inputs[start + len(items) :]])
                break
