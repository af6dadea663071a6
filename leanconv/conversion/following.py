"""Follow the channels of a network through one forward pass: which indices of which tensors must change together.

Each index of a dimension of a parameter is a label. The forward pass runs under a dispatch mode that gives every activation
a tensor of labels: at each element, the label of the channel that the element belongs to. An operation that moves elements
(view, permute, cat, slice, channel shuffle) moves the labels by the same call, so offsets and shuffles are exact. An
operation that combines elements (a sum, a norm, a convolution) couples the labels that meet. What an unknown operation
reads is fixed, with the reason.

Torch-Pruning (Fang et al. 2023) finds such sets from the autograd graph, with a rule for each kind of layer. Here no layer is
known by its class, a shuffle keeps its exact indices, and the result is data that a file can hold.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from leanconv.conversion.coupling import Couplings, Entry
from leanconv.conversion.labels import (
    BATCH_NORMS,
    COPIES,
    ELEMENTWISE,
    FIXED,
    MOVES,
    NEW,
    POOLS,
    REDUCTIONS,
    RULES,
    SAME,
    WRITTEN,
    Source,
    along,
    compact,
    core_of,
    cut,
    everywhere,
    long_dims,
    moved_by,
    tensors_in,
    varying_dims,
    vector_of,
)


class Following(Couplings):
    """A mode that labels what a forward pass computes; read `pairs`, `fixed`, `touched` and `cells` afterwards."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        operands = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if any(id(tensor) in self._entries for tensor in operands):
            name = func._schema.name.removeprefix("aten::")
            if func._schema.is_mutable and not name.startswith("_") and name not in BATCH_NORMS:
                name = name.removesuffix("_")
            for tensor in operands:
                entry = self._get(tensor)
                if isinstance(entry, Tensor):
                    self.touched.append(core_of(entry).unique().numpy())
                    if name in WRITTEN:
                        self.written.append(self.touched[-1])
            try:
                self._follow(name, func, args, kwargs, operands, out)
            except Exception:  # no rule foresees it
                self._unknown(name, operands, out)
        return out

    def _follow(self, name: str, func: Any, args: Any, kwargs: Any, operands: list[Tensor], out: Any) -> None:
        """Label `out`, the result of an operation with at least one labelled operand."""
        if name in RULES:
            rule: Callable[..., Entry | None] = getattr(self, f"_{name}")
            self._label(out, rule(out, *args, **kwargs))
        elif name in BATCH_NORMS:
            self._label(out, self._norm(args[0], operands[1:], 1))
        elif name in COPIES:
            self._label(out, self._get(args[0]))
        elif name in NEW:
            self._label(out, self._new(args[0], out))
        elif name in MOVES:
            self._move(name, func, args, dict(kwargs), out)
        elif name in POOLS:
            self._label(out, self._pool(name, args[0], out))
        elif name in REDUCTIONS:
            self._label(out, self._reduce(args, kwargs, func))
        elif torch.Tag.pointwise in func.tags or name in ELEMENTWISE:
            self._label(out, self._pointwise(operands, out))
        else:
            self._unknown(name, operands, out)

    def _unknown(self, name: str, operands: Sequence[Tensor], out: Any) -> None:
        for tensor in operands:
            self.fix(self._get(tensor), f"{name.strip('_')} is not followed")
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self._set(leaf, everywhere(FIXED, leaf))

    def _move(self, name: str, func: Any, args: Any, kwargs: Any, out: Any) -> None:
        """Move the labels by the call that moved the elements."""
        if name == "index_select":
            self._label(out, self._picked(args[0], args[1], out))
            return
        self._note_written(args if kwargs.pop("out", None) is not None else ())
        entries = [self._get(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if len(entries) == 1 and isinstance(entries[0], Source):
            moved = [moved_by(name, func, args, kwargs, iter([index])) for index in entries[0].index]
            for position, leaf in enumerate(tensors_in(out)):
                self._set(leaf, Source(entries[0].name, tuple(compact(tensors_in(one)[position]) for one in moved)))
            return
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        before = [self._as_labels(tensor) for tensor in tensors]
        after = [compact(moved) for moved in tensors_in(moved_by(name, func, args, kwargs, iter(before)))]
        for leaf, labels in zip(tensors_in(out), after, strict=True):
            self._set(leaf, labels)
        if len(before) == 1 and name in WRITTEN:
            found = core_of(before[0]).unique()
            divided = any(len(varying_dims(labels)) > len(varying_dims(before[0])) for labels in after)
            if divided or any(len(core_of(labels).unique()) < len(found) for labels in after):
                self.cut.append(found.numpy())

    def _pointwise(self, operands: Sequence[Tensor], out: Any) -> Entry | None:
        """Couple all operands of an elementwise operation, and return the labels of its result."""
        shape = tensors_in(out)[0].shape
        acts = [entry.expand(shape) for entry in map(self._get, operands) if isinstance(entry, Tensor)]
        sources = [entry for entry in map(self._get, operands) if isinstance(entry, Source)]
        constants = [tensor for tensor in operands if self._get(tensor) is None]
        first = max(acts, key=lambda labels: len(varying_dims(labels)), default=None)
        if first is None:
            return self._pointwise_sources(sources, constants, shape)
        for labels in acts:
            if labels is not first:
                self.couple(first, labels)
        for source in sources:
            for labels in self._meeting(source, first):
                self.couple(first, labels)
        if any(set(long_dims(constant, len(shape))) & set(varying_dims(first)) for constant in constants):
            self.fix(first, "it meets a constant that is no part of a layer")
        spread = {dim for labels in acts for dim in varying_dims(labels)}
        if spread - set(varying_dims(first)):
            for labels in acts:
                self.fix(labels, "the channels of two tensors are multiplied out")
            return everywhere(FIXED, tensors_in(out)[0])
        found = first
        for labels in acts:  # a padded zero is overwritten by what is added to it
            found = torch.where(found == SAME, labels, found) if bool((core_of(found) == SAME).any()) else found
        return compact(found)

    def _meeting(self, source: Source, act: Tensor) -> list[Tensor]:
        """The labels of a parameter that meet the channels of `act`.

        A parameter of positions and channels meets them along the dimension of the channels, along which most labels differ.
        """
        labels = [self._source_labels(source, dim).expand(act.shape) for dim in range(len(source.index))]
        labels = [found for found in labels if varying_dims(found)]
        if len(labels) < 2 or not varying_dims(act):
            return labels
        channels = max(varying_dims(act), key=lambda dim: len(cut(act, {dim}).unique()))
        return [found for found in labels if channels in varying_dims(found)]

    def _pointwise_sources(
        self, sources: Sequence[Source], constants: Sequence[Tensor], shape: torch.Size
    ) -> Entry | None:
        """The result of an elementwise operation on parameters alone: it lies where the first of them lies."""
        first = max(sources, key=lambda source: sum(bool(varying_dims(index)) for index in source.index))
        for source in sources:
            for dim in range(len(source.index)):
                labels = self._source_labels(source, dim).expand(shape)
                for other in range(len(first.index) if source is not first else 0):
                    target = self._source_labels(first, other).expand(shape)
                    if varying_dims(labels) and varying_dims(labels) == varying_dims(target):
                        self.couple(labels, target)
            if any(
                set(long_dims(c, len(shape))) & {d for i in source.index for d in varying_dims(i.expand(shape))}
                for c in constants
            ):
                self.fix(source, "it meets a constant that is no part of a layer")
        return Source(first.name, tuple(index.expand(shape) for index in first.index))

    def _convolution(self, out: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, *settings: Any) -> Entry:
        transposed, groups = settings[3], settings[5]
        source, entry = self._get(weight), self._get(x)
        made = self._end(source, 1 if transposed else 0)
        if (
            not isinstance(source, Source)
            or not isinstance(entry, Tensor)
            or made is None
            or (transposed and groups > 1)
        ):
            return self._unfollowed("its weight is computed", (x, weight, bias), out)
        if groups == x.shape[1] and groups > 1 and weight.shape[1] == 1:
            return self._depthwise(out, entry, source, made, bias)
        taken = self._end(source, 0 if transposed else 1) if groups == 1 else None
        if groups > 1:
            owner = self._owners.get(id(weight))
            if not isinstance(owner, nn.modules.conv._ConvNd) or owner.groups != groups:
                return self._unfollowed("its groups are not those of its layer", (x, weight, bias), out)
            taken = 1, self.labels(source.name, 1, x.shape[1])
            self.cells += [(taken[1].numpy(), groups), (made[1].numpy(), groups)]
        assert taken is not None
        kernel = [2 + at for at, size in enumerate(weight.shape[2:]) if size > 1]
        return self._weighted(source.name, taken, made, entry, bias, out, kernel)

    def _depthwise(
        self, out: Tensor, entry: Tensor, source: Source, made: tuple[int, Tensor], bias: Tensor | None
    ) -> Entry:
        """A depthwise convolution: its filters are its input channels."""
        vector = vector_of(entry, 1)
        if vector is None:
            self.fix(entry, "a depthwise convolution reads several channels as one")
            vector = torch.zeros(entry.shape[1], dtype=torch.long)
        through = compact(along(vector.repeat_interleave(out.shape[1] // entry.shape[1]), 1, out.shape))
        if not varying_dims(source.index[made[0]]):  # one filter for all channels, expanded to a number in the code
            self.written.append(core_of(entry).unique().numpy())
            return through
        labels = along(made[1], 1, out.shape)
        self.couple(labels, through)
        return self._biased(labels, made[1], bias)

    def _weighted(
        self,
        name: str,
        ins: tuple[int, Tensor],
        outs: tuple[int, Tensor],
        entry: Tensor,
        bias: Tensor | None,
        out: Tensor,
        kernel: Sequence[int] = (),
    ) -> Entry:
        """A weight reads the channels in dimension 1 of its input and makes those of its output."""
        labels, varying = along(outs[1], 1, out.shape), set(varying_dims(entry))
        if varying and 1 not in varying:  # it mixes positions: the channels are rows that it leaves as they are
            for vector in (ins[1], outs[1]):
                self.fix(vector, "it mixes positions")
            moved = any(out.shape[dim] != entry.shape[dim] for dim in varying)
            if moved or not varying.isdisjoint(kernel):
                return self._unfollowed_labels("a kernel moves over its channels", entry, out)
            shape = [entry.shape[dim] if dim in varying else 1 for dim in range(entry.dim())]
            return self._biased(core_of(entry).reshape(shape).expand(out.shape), outs[1], bias)
        if not varying.isdisjoint(kernel):
            self.fix(entry, "a kernel moves over its channels")
        self.consumers.add((name, ins[0]))
        self.producers.add((name, outs[0]))
        self.couple(along(ins[1], 1, entry.shape), entry)
        return self._biased(labels, outs[1], bias)

    def _unfollowed_labels(self, reason: str, entry: Tensor, out: Tensor) -> Entry:
        self.fix(entry, reason)
        return everywhere(FIXED, out)

    def _biased(self, labels: Tensor, made: Tensor, bias: Tensor | None) -> Tensor:
        """The labels of an output, coupled with its bias."""
        entry = None if bias is None else self._get(bias)
        if isinstance(entry, Source) and len(entry.index) == 1:
            self.couple(self._source_labels(entry, 0), made)
        elif bias is not None:
            self.fix(labels, "its bias is computed")
        return labels

    def _addmm(self, out: Tensor, bias: Tensor, x: Tensor, weight: Tensor, **_: Any) -> Entry:
        return self._mm(out, x, weight, bias)

    def _mm(self, out: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Entry:
        source, entry = self._get(weight), self._get(x)
        taken, made = self._end(source, 0), self._end(source, 1)
        if not isinstance(source, Source) or not isinstance(entry, Tensor) or taken is None or made is None:
            return self._unfollowed("it is a product of two activations", (x, weight, bias), out)
        return self._weighted(source.name, taken, made, entry, bias, out)

    def _end(self, source: Entry | None, at: int) -> tuple[int, Tensor] | None:
        """The dimension of a parameter that lies along dimension `at` of its view, and its labels."""
        if not isinstance(source, Source) or len(source.index) < 2 or source.index[0].dim() <= at:
            return None
        fits = [dim for dim, index in enumerate(source.index) if varying_dims(index) == [at]]
        alike = [dim for dim, index in enumerate(source.index) if not varying_dims(index)]
        dims = fits or alike
        if not dims:
            return None
        dim = at if at in dims else dims[0]
        labels = self._source_labels(source, dim)
        return dim, labels.movedim(at, 0).reshape(labels.shape[at], -1)[:, 0]

    def _unfollowed(self, reason: str, operands: Sequence[Tensor | None], out: Tensor) -> Entry:
        for tensor in operands:
            if tensor is not None:
                self.fix(self._get(tensor), reason)
        return everywhere(FIXED, out)

    def _norm(self, x: Tensor, others: Sequence[Tensor], dim: int) -> Entry:
        """A norm with a vector for its channels, which lie in dimension `dim`."""
        entry = self._get(x)
        if not isinstance(entry, Tensor):
            for tensor in (x, *others):
                self.fix(self._get(tensor), "a norm of weights is not followed")
            return everywhere(FIXED, x)
        for tensor in others:
            source = self._get(tensor)
            if isinstance(source, Source):
                varying = [d for d, index in enumerate(source.index) if varying_dims(index)]
                if tensor.dim() == 1 and len(varying) == 1:
                    self.couple(along(self._source_labels(source, varying[0]), dim, x.shape), entry)
                else:
                    self.fix(source, "a norm over several dimensions is not followed")
                    self.fix(entry, "a norm over several dimensions is not followed")
        return entry

    def _native_layer_norm(
        self, out: Any, x: Tensor, shape: Sequence[int], weight: Tensor | None, bias: Tensor | None, *_: Any
    ) -> Entry:
        entry = self._get(x)
        if isinstance(entry, Tensor) and weight is None:
            self.written.append(core_of(entry).unique().numpy())
        if len(shape) > 1:
            self.fix(entry, "a norm over several dimensions is not followed")
        return self._norm(x, [tensor for tensor in (weight, bias) if tensor is not None], x.dim() - 1)

    def _native_group_norm(self, out: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, *sizes: Any) -> Entry:
        entry, groups = self._get(x), sizes[3]
        if isinstance(entry, Tensor) and groups > 1:
            vector = vector_of(entry, 1)
            if vector is None:
                self.fix(entry, "a group norm reads several channels as one")
            else:
                self.cells.append((vector.numpy(), groups))
        return self._norm(x, [tensor for tensor in (weight, bias) if tensor is not None], 1)

    def _constant_pad_nd(self, out: Tensor, x: Tensor, pad: Sequence[int], value: float = 0) -> Entry:
        labels = self._as_labels(x)
        varying = varying_dims(labels)
        for step in range(len(pad) // 2):
            dim = x.dim() - 1 - step
            if dim in varying and any(pad[2 * step : 2 * step + 2]):
                self.cut.append(core_of(labels).unique().numpy())
                shapes = [
                    [*labels.shape[:dim], max(0, n), *labels.shape[dim + 1 :]] for n in pad[2 * step : 2 * step + 2]
                ]
                before, after = (torch.full(shape, SAME) for shape in shapes)
                labels = torch.cat([before, labels, after], dim)
                start = max(0, -pad[2 * step])
                labels = labels.narrow(dim, start, out.shape[dim])
            elif dim not in varying:
                labels = labels.narrow(dim, 0, 1).expand(*labels.shape[:dim], out.shape[dim], *labels.shape[dim + 1 :])
        return compact(labels)

    def _as_strided(self, out: Tensor, x: Tensor, *layout: Any) -> Entry:
        """What torch's adaptive pooling to one position ends with; only from a tensor that is laid out in its order."""
        if not x.is_contiguous() or x.storage_offset():
            return self._unfollowed("as_strided is not followed", (x,), out)
        return compact(self._as_labels(x).contiguous().as_strided(*layout))

    def _copy(self, out: Tensor, target: Tensor, source: Tensor, *_: Any) -> Entry | None:
        """``target.copy_(source)``: other views of the memory of `target` keep their labels."""
        entry = self._get(source)
        if (
            isinstance(entry, Tensor) and self._get(target) is None
        ):  # the code made the target, and says its number of channels
            self.written.append(core_of(entry).unique().numpy())
        if target.numel() == target.untyped_storage().nbytes() // max(1, target.element_size()):
            return self._get(source)
        for tensor in (target, source):
            self.fix(self._get(tensor), "it is written into a part of a tensor")
        return everywhere(FIXED, target)

    def _pool(self, name: str, x: Tensor, out: Any) -> Entry:
        """Windows over positions: channels stay what they are."""
        entry, result = self._as_labels(x), tensors_in(out)[0]
        if any(result.shape[dim] != entry.shape[dim] for dim in varying_dims(entry)):
            return self._unfollowed(f"{name.strip('_')} moves over its channels", (x,), result)
        shape = tuple(entry.shape[dim] if dim in varying_dims(entry) else 1 for dim in range(entry.dim()))
        return cut(entry, set(varying_dims(entry))).reshape(shape).expand(result.shape)

    def _reduce(self, args: Any, kwargs: Any, func: Any) -> Entry:
        """A sum or mean; over channels it is the same in any order."""
        x = args[0]
        entry, names = self._as_labels(x), [argument.name for argument in func._schema.arguments]
        given = dict(zip(names, args, strict=False)) | kwargs
        dims = given.get("dim")
        dims = list(range(x.dim())) if dims is None or dims == [] else [dims] if isinstance(dims, int) else dims
        dims = [dim % x.dim() for dim in dims]
        over = set(dims) & set(varying_dims(entry))
        parts = bool(over and set(varying_dims(entry)) - set(dims))
        if parts:  # terms that are added up, as in a sum of tensors
            self.couple(entry, cut(entry, set(range(x.dim())) - set(dims)).expand(entry.shape))
        reduced = entry
        for dim in sorted(dims, reverse=True):
            reduced = reduced.narrow(dim, 0, 1) if given.get("keepdim") else reduced.select(dim, 0)
        if over and not parts:
            label = FIXED if bool((core_of(entry) == FIXED).any()) else SAME
            return torch.full((), label).expand(reduced.shape)
        return reduced

    def _label(self, out: Any, entry: Entry | None) -> None:
        """Label each tensor of `out` that has the shape of the labels; a constant has none."""
        for leaf in tensors_in(out):
            if entry is None:
                self._entries.pop(id(leaf), None)
            elif isinstance(entry, Source) or leaf.shape == entry.shape:
                self._set(leaf, entry)
