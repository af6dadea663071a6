"""Merge parallel convolutions on parts of a feature map's channels into one grouped convolution on the whole feature map."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from leanconv.core.affine import Affine, conv_of, folded
from leanconv.core.block_diagonal import PaddedGroups, diagonal, not_whole
from leanconv.core.modes import in_eval
from leanconv.core.operator import Forms, LinearOp
from leanconv.core.spec import ConvSpec, divisors
from leanconv.inference.fold import is_plain_conv
from leanconv.inference.forms import forms_of
from leanconv.inference.graph import argument, given, is_item, is_relu, module_of, uses_of

Branch = LinearOp | nn.Conv2d


def spec_of(conv: Branch) -> ConvSpec:
    """The `ConvSpec` of a convolution or of a lean operator.

    >>> spec_of(nn.Conv2d(3, 8, 3)).out_channels
    8
    """
    return conv.spec if isinstance(conv, LinearOp) else ConvSpec.of(conv)


class Branches(nn.Module):
    """Parallel convolutions, each on a part of the input's channels, with their normalisation layers; outputs are stacked.

    Args:
        convs: the convolutions.
        norms: the normalisation layers after each convolution, in their order.

    Shape:
        x: (N, sum of in_channels, H, W) -> (N, sum of out_channels, H', W').
    """

    def __init__(self, convs: Sequence[Branch], norms: Sequence[Sequence[nn.BatchNorm2d]]) -> None:
        super().__init__()
        self.convs, self.norms = nn.ModuleList(convs), nn.ModuleList(nn.Sequential(*own) for own in norms)
        self.parts = [conv.in_channels for conv in convs]

    def forward(self, x: Tensor) -> Tensor:
        parts = x.split(self.parts, 1)
        return torch.cat([norm(conv(part)) for conv, norm, part in zip(self.convs, self.norms, parts, strict=True)], 1)

    def forms(self) -> Forms:
        """Separate convolutions, or one on the whole feature map, with as many groups as the weights' zeros allow, or fewer."""
        affines = [Affine.chain(norm) for norm in self.norms]  # type: ignore[arg-type]
        pairs = [_dense(conv, affine) for conv, affine in zip(self.convs, affines, strict=True)]
        weight = _block_diagonal([weight for weight, _ in pairs])
        bias = None
        if any(shift is not None for _, shift in pairs):  # a branch without a bias adds zeros
            bias = torch.cat([own.new_zeros(len(own)) if shift is None else shift for own, shift in pairs])
        spec = replace(spec_of(self.convs[0]), in_channels=weight.shape[1], out_channels=len(weight), groups=1)  # type: ignore[arg-type]
        nonzero = weight.count_nonzero()
        found: Forms = {}
        for groups in reversed(divisors(spec.in_channels, spec.out_channels)):
            part = diagonal(weight, 1, groups)
            if groups <= len(self.convs) and part.count_nonzero() == nonzero:
                found[f"merged({groups})"] = lambda part=part, groups=groups: conv_of(spec, part, bias, groups)  # type: ignore[misc]
        most = next((groups for groups in reversed(divisors(len(self.convs))) if f"merged({groups})" in found), 1)
        if most > 1 and not_whole(spec, most):
            part = diagonal(weight, 1, most)
            found[f"merged({most}), padded"] = lambda: PaddedGroups(spec, most, part, bias)
        found["separate"] = lambda: self._separate(affines)
        return found

    def _separate(self, affines: Sequence[Affine | None]) -> nn.Module:
        convs = []
        for conv, affine in zip(self.convs, affines, strict=True):
            if isinstance(conv, LinearOp):
                convs.append(next(iter(forms_of(conv, affine).values()))())
            else:
                assert isinstance(conv, nn.Conv2d)
                convs.append(conv_of(ConvSpec.of(conv), *folded(conv.weight, conv.bias, affine)))
        return Separate(convs, self.parts)


class Separate(nn.Module):
    """The convolutions of `Branches`, run one after the other."""

    def __init__(self, convs: Sequence[nn.Module], parts: Sequence[int]) -> None:
        super().__init__()
        self.convs, self.parts = nn.ModuleList(convs), list(parts)

    def forward(self, x: Tensor) -> Tensor:
        parts = x.split(self.parts, 1)
        return torch.cat([conv(parts[index]) for index, conv in enumerate(self.convs)], 1)


def _dense(conv: nn.Module, affine: Affine | None) -> tuple[Tensor, Tensor | None]:
    """The weight (O, I, kh, kw), without groups, and the bias."""
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
    source: fx.Node
    items: list[fx.Node]
    convs: list[fx.Node]
    relus: list[fx.Node]  # directly after the convolutions; none, or one after each


def merge_branches(graph: fx.GraphModule, norms: dict[str, list[nn.BatchNorm2d]]) -> dict[str, tuple[str, ...]]:
    """Replace the parallel convolutions after each split of a feature map's channels by one `Branches`.

    All branches must have the same kernel, stride, padding and dilation, and all or none a ReLU after them. The nodes of
    `graph` must know their shapes (`leanconv.inference.graph.record`).

    Args:
        graph: the traced module; it is changed.
        norms: the normalisation layers after each convolution (`leanconv.inference.fold.fold_norms`).

    Returns:
        the name of each `Branches` -> the convolutions that it replaces.
    """
    made: dict[str, tuple[str, ...]] = {}
    uses = uses_of(graph)
    for node in list(graph.graph.nodes):
        found = _parallel(graph, node, uses)
        if found is None:
            continue
        names = tuple(str(conv.target) for conv in found.convs)
        name = names[0].replace(".", "_") + "_branches"
        convs: Any = [graph.get_submodule(conv) for conv in names]
        graph.add_submodule(name, in_eval(Branches(convs, [norms.get(conv, []) for conv in names])))
        made[name] = names
        ends = found.relus or found.convs
        with graph.graph.inserting_before(found.convs[0]):
            out = graph.graph.call_module(name, (found.source,))
        shape, end_shape = found.source.meta["shape"], ends[0].meta["shape"]
        widths = [conv.out_channels for conv in convs]
        if found.relus:
            with graph.graph.inserting_after(out):
                out = graph.graph.call_function(torch.relu, (out,))
        out.meta["shape"] = (shape[0], sum(widths), *end_shape[2:])
        with graph.graph.inserting_after(out):
            parts = graph.graph.call_function(torch.split, (out, widths, 1))
        for index, end in enumerate(ends):
            with graph.graph.inserting_after(parts):
                item = graph.graph.call_function(operator.getitem, (parts, index))
            item.meta["shape"] = end.meta["shape"]
            end.replace_all_uses_with(item)
        _join(graph, parts, out)
        for old in (*found.relus, *found.convs, *found.items, found.split, *parts.users, parts):
            if not old.users:
                graph.graph.erase_node(old)
    graph.graph.lint()
    graph.recompile()
    return made


def _parallel(graph: fx.GraphModule, node: fx.Node, uses: Mapping[str, int]) -> _Found | None:
    if node.target not in ("split", "chunk", torch.split, torch.chunk) or node.op == "call_module":
        return None
    source = argument(node, 0, ("input", "tensor"))
    shape = source.meta.get("shape") if isinstance(source, fx.Node) else None
    items = sorted((user for user in node.users if is_item(user)), key=lambda item: item.args[1])  # type: ignore[arg-type,return-value]
    if len(items) < 2 or len(items) != len(node.users) or [i.args[1] for i in items] != list(range(len(items))):
        return None
    convs = [next(iter(item.users)) for item in items if len(item.users) == 1]
    modules = [module_of(graph, conv, uses) for conv in convs]
    if len(convs) != len(items) or not all(isinstance(m, LinearOp) or is_plain_conv(m) for m in modules):
        return None
    if [given(conv) for conv in convs] != items or shape is None or len(shape) != 4:
        return None
    specs = [spec_of(m) for m in modules]  # type: ignore[arg-type]
    alike = {(s.kernel_size, s.stride, s.padding, s.dilation, s.padding_mode) for s in specs}
    # If the convolutions take as many channels as the feature map has, the parts are channels, and all of the channels
    if len(alike) > 1 or sum(s.in_channels for s in specs) != shape[1]:
        return None
    behind = [next(iter(conv.users)) for conv in convs if len(conv.users) == 1]
    relus = len(behind) == len(convs) and all(is_relu(graph, user) for user in behind)
    return _Found(node, source, items, convs, behind if relus else [])


def _join(graph: fx.GraphModule, parts: fx.Node, whole: fx.Node) -> None:
    """Where all parts are concatenated along the channels in their order, use the whole feature map instead."""
    items = sorted(parts.users, key=lambda item: item.args[1])  # type: ignore[arg-type,return-value]
    for node in {user: None for item in items for user in item.users}:
        if node.target not in (torch.cat, torch.concat, torch.concatenate):
            continue
        inputs, dim = argument(node, 0, ("tensors",)), argument(node, 1, ("dim", "axis"), 0)
        if not isinstance(inputs, list | tuple) or dim not in (1, -3) or set(node.kwargs) - {"tensors", "dim", "axis"}:
            continue
        inputs = list(inputs)
        for start in range(len(inputs) - len(items) + 1):
            if inputs[start : start + len(items)] == items:
                node.args, node.kwargs = ([*inputs[:start], whole, *inputs[start + len(items) :]], 1), {}
                break
