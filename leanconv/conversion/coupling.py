"""Labels of channels, and which of them are one channel."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from leanconv.conversion.labels import FIXED, Source, along, core_of, cut, everywhere, mapped, outputs_in, varying_dims
from leanconv.core.errors import SettingError
from leanconv.core.shown import kind
from leanconv.core.storage import Memory, memory_of

INPUT = "it takes in what must stay in its order"
Entry = Tensor | Source


class Couplings(TorchDispatchMode):
    """The labels of a network's tensors, and what a forward pass tells of them.

    Args:
        model: the network that will run, with the names of its tensors.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.axes: dict[tuple[str, int], tuple[int, int]] = {}  # (tensor, dimension) -> first label, number of labels
        self.size = 1  # label 0 is FIXED
        self.pairs: list[np.ndarray] = []  # (2, n): labels that are one channel
        self.fixed: list[tuple[np.ndarray, str]] = []
        self.touched: list[np.ndarray] = []  # for each operand of each operation, the labels that it holds
        self.cells: list[
            tuple[np.ndarray, int]
        ] = []  # channels that a grouped layer divides in this number of equal parts
        self.written: list[np.ndarray] = []  # channels behind an operation whose code may say their number
        self.cut: list[np.ndarray] = []  # channels that the code divides: their numbers depend on each other
        self.producers: set[tuple[str, int]] = set()
        self.consumers: set[tuple[str, int]] = set()
        self._entries: dict[int, tuple[Tensor, Entry]] = {}
        self._model = model
        self._owners = {
            id(m.weight): m
            for m in model.modules()
            if not isinstance(m, torch.jit.ScriptModule) and m._parameters.get("weight") is not None
        }
        self._shapes: dict[str, tuple[int, ...]] = {}
        first: dict[Memory, Source] = {}  # tensors that are tied by their memory have one entry
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            held = memory_of(tensor)
            if held in first:
                self._entries[id(tensor)] = tensor, first[held]
                continue
            self._shapes[name] = tuple(tensor.shape)
            index = tuple(along(torch.arange(n), d, tensor.shape) for d, n in enumerate(tensor.shape))
            first[held] = Source(name, index)
            self._entries[id(tensor)] = tensor, first[held]

    def start(self, images: Tensor) -> None:
        """Label the input of the network, whose channels keep their order."""
        self._set(images, torch.zeros((), dtype=torch.long).expand(images.shape))

    def end(self, out: Any) -> None:
        """Fix what the network gives out."""
        found = outputs_in(out)
        if not found:
            raise SettingError(
                f"the network gives out {kind(out)}, in which no tensor is found, so its channels cannot be followed; return a "
                "tensor, or a list, a dict or a dataclass of tensors"
            )
        for leaf in found:
            self.fix(self._get(leaf), "the network gives it out")

    def fix_layers(self, names: Iterable[str], reason: str) -> None:
        """Fix the channels of all parameters and buffers of some modules of the network."""
        for name in names:
            module = self._model.get_submodule(name)
            for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
                self.fix(self._get(tensor), reason)

    def labels(self, name: str, dim: int, size: int) -> Tensor:
        """The labels of one dimension of a tensor."""
        if (name, dim) not in self.axes:
            self.axes[name, dim] = self.size, size
            self.size += size
        first, known = self.axes[name, dim]
        assert known == size
        return torch.arange(first, first + size)

    def fix(self, entry: Entry | None, reason: str) -> None:
        """Fix all channels that `entry` holds."""
        if isinstance(entry, Source):
            for dim, size in enumerate(
                self._shapes[entry.name]
            ):  # a grouped weight has more input channels than its size
                first, known = self.axes.get((entry.name, dim)) or (int(self.labels(entry.name, dim, size)[0]), size)
                self.fixed.append((np.arange(first, first + known), reason))
        elif entry is not None:
            found = core_of(entry).unique()
            self.fixed.append((found[found > 0].numpy(), reason))

    def couple(self, a: Tensor, b: Tensor) -> None:
        """Make the labels that meet, where `a` and `b` broadcast together, one channel."""
        shape = torch.broadcast_shapes(a.shape, b.shape)
        a, b = a.expand(shape), b.expand(shape)
        both = set(varying_dims(a)) & set(varying_dims(b))
        if not both:
            for one, other in ((a, b), (b, a)):  # a label that is alike everywhere stands for no channel, except FIXED
                if not varying_dims(one) and one.numel() and int(core_of(one)) == FIXED:
                    self.fix(other, INPUT)
            return
        dims = set(varying_dims(a)) | set(varying_dims(b))
        left, right = (cut(x, dims).reshape(-1).numpy() for x in (a, b))
        self.fixed.append((right[(left == FIXED) & (right > 0)], INPUT))
        self.fixed.append((left[(right == FIXED) & (left > 0)], INPUT))
        meet = (left > 0) & (right > 0) & (left != right)
        if meet.any():
            self.pairs.append(np.unique(np.stack([left[meet], right[meet]]), axis=1))

    def _as_labels(self, tensor: Tensor) -> Tensor:
        """The labels of any tensor; a constant that is not known must stay as it is."""
        entry = self._get(tensor)
        if isinstance(entry, Tensor):
            return entry
        if isinstance(entry, Source):
            varying = [dim for dim, index in enumerate(entry.index) if varying_dims(index)]
            if len(varying) == 1:
                return self._source_labels(entry, varying[0])
            self.fix(entry, "it is joined with other tensors")
        return everywhere(FIXED, tensor)

    def _picked(self, x: Tensor, dim: int, out: Tensor) -> Entry:
        """Elements at positions that a tensor holds, which is not read here."""
        entry = self._get(x)
        if isinstance(entry, Tensor) and dim % x.dim() not in varying_dims(entry):
            return entry.narrow(dim, 0, 1).expand(out.shape)
        self.fix(entry, "index_select is not followed")
        return everywhere(FIXED, out)

    def _new(self, x: Tensor, out: Tensor) -> Entry | None:
        """A tensor of the sizes of `x`, or of one element in place of positions, which is filled with what is alike."""
        entry = self._get(x)
        if not isinstance(entry, Tensor) or out.dim() != x.dim():
            return None
        for dim, size in enumerate(out.shape):
            if size != entry.shape[dim] and (size != 1 or dim in varying_dims(entry)):
                return None
            entry = entry.narrow(dim, 0, size)
        return entry

    def _note_written(self, args: Any) -> None:
        """Note channels that are written into a tensor that the code made, and whose number of channels it says."""
        entries = [self._get(leaf) for leaf in tree_leaves(args) if isinstance(leaf, Tensor)]
        self.written += [core_of(entry).unique().numpy() for entry in entries if isinstance(entry, Tensor)]

    def _set(self, tensor: Tensor, entry: Entry) -> None:
        self._entries[id(tensor)] = tensor, entry  # the tensor too, so that its id is not given to another

    def _get(self, tensor: Tensor) -> Entry | None:
        found = self._entries.get(id(tensor))
        return None if found is None else found[1]

    def _source_labels(self, source: Source, dim: int) -> Tensor:
        """The labels of one dimension of a parameter at each element of its view."""
        index = source.index[dim]
        return mapped(index, self.labels(source.name, dim, self._shapes[source.name][dim]))
