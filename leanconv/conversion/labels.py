"""Tensors of labels: the channel of each element of an activation, without memory for what is alike along a dimension."""

from __future__ import annotations

import types
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

FIXED, SAME = 0, -1  # labels of an element that must stay where it is, and of a constant that is the same at each index

MOVES = {
    "_unsafe_view", "view", "reshape", "_reshape_alias", "permute", "transpose", "t", "unsqueeze", "squeeze", "expand", "slice",
    "select", "split", "split_with_sizes", "unbind", "cat", "stack", "flip", "roll", "repeat", "pixel_shuffle",
    "pixel_unshuffle", "index_select", "narrow", "native_channel_shuffle", "channel_shuffle", "movedim", "chunk",
}  # fmt: skip
# What only holds while sizes written in the code stay true: a narrower network is followed again to see whether they do
WRITTEN = MOVES - {"cat", "permute", "transpose", "t", "unsqueeze", "squeeze", "flip"} | {"constant_pad_nd"}
COPIES = {
    "clone", "contiguous", "alias", "detach", "_to_copy", "lift_fresh", "dropout", "native_dropout", "_softmax", "_log_softmax",
    "empty_like", "zeros_like", "ones_like", "full_like", "rand_like", "randn_like", "bernoulli",
}  # fmt: skip
NEW = {"new_empty", "new_zeros", "new_ones", "new_full"}  # they read no values, and may have the sizes of their operand
POOLS = {
    "max_pool2d_with_indices", "max_pool2d", "avg_pool2d", "avg_pool1d", "_adaptive_avg_pool2d", "adaptive_max_pool2d",
    "upsample_nearest2d", "upsample_bilinear2d", "upsample_bicubic2d", "_upsample_nearest_exact2d",
    "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa", "reflection_pad2d", "replication_pad2d", "reflection_pad1d",
    "replication_pad1d",
}  # fmt: skip
ELEMENTWISE = {  # without torch's tag for elementwise operations
    "hardswish", "hardsigmoid", "hardtanh", "silu", "mish", "gelu", "celu", "_prelu_kernel", "where", "relu6",
}  # fmt: skip
REDUCTIONS = {"mean", "sum", "amax", "amin", "linalg_vector_norm"}
BATCH_NORMS = {
    "native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training", "cudnn_batch_norm",
    "miopen_batch_norm", "_batch_norm_with_update", "_batch_norm_no_update",
}  # fmt: skip
RULES = {
    "convolution", "addmm", "mm", "native_layer_norm", "native_group_norm", "constant_pad_nd", "copy", "as_strided",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Source:
    """A parameter or buffer, or a moved view of one: where each of its indices lies.

    Args:
        name: its name in the network.
        index: for each dimension of the tensor, the index at each element of the view.
    """

    name: str
    index: tuple[Tensor, ...]


def moved_by(name: str, func: Any, args: Any, kwargs: Any, labels: Iterator[Tensor]) -> Any:
    """The call with labels in place of its tensors."""
    replaced: Any = tree_map(lambda leaf: next(labels) if isinstance(leaf, Tensor) else leaf, (args, kwargs))
    if name in ("view", "_unsafe_view", "_reshape_alias", "reshape"):  # labels are not laid out as the elements are
        return replaced[0][0].reshape(args[1])
    return func(*replaced[0], **replaced[1])


def tensors_in(out: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]


def outputs_in(out: Any, depth: int = 8) -> list[Tensor]:
    """The tensors in what a network gives out: also those in objects, such as dataclasses."""
    if isinstance(out, Tensor):
        return [out]
    if depth == 0 or isinstance(out, nn.Module | type | types.FunctionType | types.ModuleType):
        return []
    if isinstance(out, Mapping):
        parts = list(out.values())
    elif isinstance(out, list | tuple | set | frozenset | deque):
        parts = list(out)
    else:
        slots = [getattr(kind, "__slots__", ()) for kind in type(out).__mro__]
        names = [name for own in slots for name in ([own] if isinstance(own, str) else own)]
        parts = [*getattr(out, "__dict__", {}).values(), *(getattr(out, name, None) for name in names)]
    found = [tensor for part in parts for tensor in outputs_in(part, depth - 1)]
    return list({id(tensor): tensor for tensor in (*found, *tensors_in(out))}.values())


def everywhere(label: int, like: Tensor) -> Tensor:
    return torch.full((), label).expand(like.shape)


def along(vector: Tensor, dim: int, shape: Sequence[int]) -> Tensor:
    """`vector` along dimension `dim` of a tensor of this shape, alike in all others, without memory for them."""
    return vector.reshape([len(vector) if d == dim else 1 for d in range(len(shape))]).expand(*shape)


def varying_dims(labels: Tensor) -> list[int]:
    """The dimensions along which compact labels differ."""
    return [dim for dim, size in enumerate(labels.shape) if size > 1 and labels.stride(dim) != 0]


def long_dims(tensor: Tensor, dims: int) -> list[int]:
    """The dimensions of more than one element, counted as in a result of `dims` dimensions."""
    return [dims - tensor.dim() + dim for dim, size in enumerate(tensor.shape) if size > 1]


def compact(labels: Tensor) -> Tensor:
    """The same labels, expanded along each dimension along which they do not differ."""
    core = core_of(labels)
    for dim in varying_dims(core):
        first = core.narrow(dim, 0, 1)
        if bool((core == first).all()):
            core = first
    return core.expand(labels.shape)


def cut(labels: Tensor, dims: set[int]) -> Tensor:
    """The labels at the first index of every dimension outside `dims`."""
    return labels[tuple(slice(None) if dim in dims else slice(0, 1) for dim in range(labels.dim()))]


def core_of(labels: Tensor) -> Tensor:
    return cut(labels, set(varying_dims(labels)))


def mapped(index: Tensor, labels: Tensor) -> Tensor:
    """``labels[index]`` without memory for the dimensions along which `index` does not differ."""
    return labels[core_of(index)].expand(index.shape)


def vector_of(labels: Tensor, dim: int) -> Tensor | None:
    """The labels along `dim`, if they differ along no other dimension."""
    if set(varying_dims(labels)) - {dim}:
        return None
    return labels.movedim(dim, -1).reshape(-1, labels.shape[dim])[0] if labels.numel() else None
