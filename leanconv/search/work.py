"""The MACs and the weights of a network as its sets of channels get narrower."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from leanconv.conversion.channels import ChannelGraph
from leanconv.core.count import count_macs
from leanconv.core.meta import dry_run

CONVOLUTIONS = {"conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"}
PRODUCTS = {  # functions: the name and the position of their weight
    "linear": ("weight", 1), "matmul": ("other", 1), "__matmul__": ("other", 1), "mm": ("mat2", 1), "addmm": ("mat2", 2),
} | dict.fromkeys(CONVOLUTIONS, ("weight", 1))  # fmt: skip


class Work:
    """The MACs of a network as its sets get narrower, from one forward pass.

    A convolution or a matrix product has one multiply-add for each element of its weight at each position, so the positions of
    its output tell what the removed weights save. Calls of torch's functions count as layers do.

    >>> from leanconv.conversion.channels import channel_graph
    >>> two = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1))
    >>> work = Work(two, channel_graph(two, (3, 10, 10)))
    >>> work.dense, work.macs({"0": 4})
    (15872, 7936)
    """

    def __init__(self, model: nn.Module, graph: ChannelGraph) -> None:
        self.graph = graph
        self.dense = count_macs(model, graph.input_size)
        self.shapes: dict[str, tuple[int, ...]] = {}
        names = {place.tensor for found in graph.sets for place in found.places}

        def run(twin: nn.Module, images: Tensor) -> dict[str, int]:
            weights = {name: weight for name, weight in twin.named_parameters() if name in names}
            with _Products(weights) as products:
                twin(images)
            self.shapes = {name: tuple(weights[name].shape) for name in products.positions}
            return {name: seen // len(images) for name, seen in products.positions.items()}

        self.positions = dry_run(model, graph.input_size, run)

    def macs(self, widths: Mapping[str, int]) -> int:
        """The MACs with these numbers of channels in the named sets."""
        return self.dense - self._removed(widths, self.positions)

    def weights(self, widths: Mapping[str, int]) -> int:
        """The weights of convolutions and linear layers with these numbers of channels in the named sets."""
        return sum(map(math.prod, self.shapes.values())) - self._removed(widths, dict.fromkeys(self.positions, 1))

    def _removed(self, widths: Mapping[str, int], times: Mapping[str, int]) -> int:
        """The weights that are removed, each counted as often as `times` says for its layer."""
        left: dict[tuple[str, int], float] = {}
        for found in self.graph.sets:
            gone = found.size - widths.get(found.name, found.size)
            for place in found.places if gone else ():
                axis = place.tensor, place.dim
                lost = gone * (len(place.index) // found.size) / place.size
                left[axis] = left.get(axis, 1.0) - lost
        removed = 0
        for name, shape in self.shapes.items():
            share = left.get((name, 0), 1.0) * left.get((name, 1), 1.0)
            removed += round(math.prod(shape) * (1 - share)) * times[name]
        return removed


class _Products(TorchFunctionMode):
    """Notes at how many positions convolutions and matrix products use each of some weights.

    Args:
        weights: by name.
    """

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.positions: dict[str, int] = {}
        self._names = {id(weight): name for name, weight in weights.items()}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        called = getattr(func, "__name__", "")
        named, at = PRODUCTS.get(called, ("", 0))
        weight = kwargs.get(named, args[at] if len(args) > at else None)
        if named and id(weight) in self._names:
            seen = kwargs.get("input", next(iter(args), None)) if "transpose" in called else out
            name = self._names[id(weight)]
            channels = seen.shape[1 - weight.dim() if called in CONVOLUTIONS else -1]  # a single image has no batch
            self.positions[name] = self.positions.get(name, 0) + seen.numel() // channels
        return out
