"""PyTorch's outputs on the images on which an exported file is compared, and how much the file may differ."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from leanconv.core.copying import copied
from leanconv.core.errors import CheckError, SettingError, first_line
from leanconv.deploy.formats import Runner
from leanconv.deploy.sizes import Guard, Pair, beyond
from leanconv.inference.compare import LEAST, TIMES, difference, refuse_unsteady

LARGER = ((3, 32, 32), (2, 33, 17))  # images, and pixels added to height and width: a multiple of all strides, and not
MOST_PIXELS = 2**22  # of an image that is tried beyond a limit in the network's code
TRIES = 4  # sizes beyond a limit, of which the first that PyTorch takes is compared
TOLERANCE = 1e-4  # part of the largest output; float32 sums in another order differ by about 1e-6 of it


class Answers:
    """PyTorch's outputs on the images of the comparison.

    Args:
        model: the network.
        example: the example input.
        images: further inputs, besides the example and a batch of one.

    Raises:
        SettingError: the network gives another output at each call.
    """

    def __init__(self, model: nn.Module, example: Tensor, images: Sequence[Tensor]) -> None:
        self.inputs = [
            example,
            torch.randn(1, *example.shape[1:]),
            *(image.detach().cpu().float() for image in images),
        ]
        self.expected = [_expected(model, x) for x in self.inputs]
        refuse_unsteady(model, difference(_expected(model, example), self.expected[0]), self.expected[0])
        self.model = model
        self.bounds = _Bounds(model)

    def any_size(self, run: Runner, guard: Guard) -> bool:
        """Whether a file gives the right outputs at other sizes; if so, these images are compared too.

        Larger images, and those of another form, must run. At smaller sizes, and beyond a comparison that the network's code
        makes with sizes, the file may refuse images.

        Args:
            run: the file.
            guard: what the graph in the file asks of the shape of images.
        """
        channels, height, width = self.inputs[0].shape[1:]
        pairs: list[tuple[Tensor, Tensor]] = []
        for shape in _shapes(height, width):
            if self._tried(run, (shape[0], channels, *shape[1:]), pairs) is False:
                return False
        if not pairs:
            return False
        for sizes in ([((height + 1) // 2, (width + 1) // 2)], *beyond(guard, channels, (height, width))):
            sizes = [size for size in sizes if math.prod(size) <= MOST_PIXELS][:TRIES]
            if not sizes or not self._right_or_refused(run, channels, sizes, pairs):
                return False
        self.inputs += [x for x, _ in pairs]
        self.expected += [expected for _, expected in pairs]
        return True

    def _right_or_refused(
        self, run: Runner, channels: int, sizes: Sequence[Pair], pairs: list[tuple[Tensor, Tensor]]
    ) -> bool:
        """Whether the file is right at the first of `sizes` that PyTorch takes, or refuses images that are not larger."""
        own = self.inputs[0].shape[2:]
        for size in sizes:
            smaller = any(side < other for side, other in zip(size, own, strict=True))
            right = self._tried(run, (2, channels, *size), pairs, may_refuse=smaller)
            if right is not None:
                return right
        return True

    def _tried(
        self, run: Runner, shape: tuple[int, ...], pairs: list[tuple[Tensor, Tensor]], may_refuse: bool = False
    ) -> bool | None:
        """Whether the file is right on images of this shape, which are then added to `pairs`; None if PyTorch takes none."""
        x = torch.randn(shape)
        try:
            expected = _expected(self.model, x)
        except SettingError:
            return None
        found = _output(run, x)
        if found is None:
            return may_refuse
        if not self.bounds.holds(found, x, expected):
            return False
        pairs.append((x, expected))
        return True

    def error(self, run: Runner, to: str) -> float:
        """The largest difference of a file from PyTorch on all images.

        Raises:
            CheckError: it is too large, or the file does not run.
        """
        pairs = zip(self.inputs, self.expected, strict=True)
        return max(_difference(run, x, y, to, self.bounds) for x, y in pairs)


def _shapes(height: int, width: int) -> list[tuple[int, int, int]]:
    """(images, height, width) of images at which a file for any size must run: larger, landscape, portrait, twice as large."""
    longer = max(height, width)
    larger = [(batch, height + more[0], width + more[1]) for batch, *more in LARGER]
    return [*larger, (1, longer, 2 * longer), (1, 2 * longer, longer), (1, 2 * height, 2 * width)]


@torch.no_grad()
def _expected(model: nn.Module, x: Tensor) -> Tensor:
    try:
        y = model(x.clone())
    except Exception as error:  # the network's own code may raise anything
        raise SettingError(f"the network does not run on images of {tuple(x.shape)} ({first_line(error)})") from error
    if not isinstance(y, Tensor):
        raise SettingError(f"the network returns {type(y).__name__}; only one tensor can be compared")
    return y


def _output(run: Runner, x: Tensor) -> Tensor | None:
    """The output; None if the network or the file does not support this size. The runtime may raise anything."""
    try:
        with torch.no_grad():
            return run(x.clone())
    except Exception:
        return None


class _Bounds:
    """How much a file may differ from PyTorch: a small part of the largest output, or a multiple of PyTorch's own rounding."""

    def __init__(self, model: nn.Module) -> None:
        self.exact = copied(model).double()

    def holds(self, found: Tensor, x: Tensor, expected: Tensor) -> bool:
        far = difference(found, expected)
        return far.reason is None and far.error <= self.bound(x, expected)

    def bound(self, x: Tensor, expected: Tensor) -> float:
        largest = difference(expected, expected).largest
        try:
            rounding = difference(expected, _expected(self.exact, x.double()))
        except SettingError:  # the network has a cast or a plain tensor in its forward
            return TOLERANCE * max(largest, LEAST)
        own = rounding.error if rounding.reason is None else 0.0
        return max(TOLERANCE * max(largest, LEAST), TIMES * own)


def _difference(run: Any, x: Tensor, expected: Tensor, to: str, bounds: _Bounds) -> float:
    try:
        with torch.no_grad():
            found = run(x.clone())
    except Exception as error:
        raise CheckError(
            f"the {to} file does not run on {tuple(x.shape)} ({first_line(error)}); nothing was written"
        ) from error
    far = difference(found, expected)
    if far.reason is not None:
        raise CheckError(f"the {to} file gives another output on {tuple(x.shape)}: {far.reason}; nothing was written")
    bound = bounds.bound(x, expected)
    if not far.error <= bound:
        raise CheckError(
            f"the {to} file differs from PyTorch by {far.error:.3g} on {tuple(x.shape)}, more than {bound:.3g}; "
            "nothing was written"
        )
    return far.error
