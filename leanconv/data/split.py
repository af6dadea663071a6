"""Hold out a part of every class."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from leanconv.core.errors import SettingError
from leanconv.data.seeds import generator


@dataclass(frozen=True)
class HeldOut:
    """How the test part of a data set was held out. The same images always give the same test part.

    Args:
        fraction, seed: see `stratified`.
        images: a digest of the images' names and labels. A later run compares it, to test on the same images.
    """

    fraction: float
    seed: int
    images: str

    @classmethod
    def of(cls, fraction: float, names: Iterable[str], labels: Tensor, seed: int = 0) -> tuple[HeldOut, Tensor, Tensor]:
        """Hold out a part of some images: (the description, rows to train on, rows to test on).

        Args:
            fraction, seed: see `stratified`.
            names: one for each image, for the digest.
            labels: integers (N,).

        Raises:
            SettingError: `fraction` is not between 0 and 1, or every class has only one image.
        """
        digest = hashlib.sha256()
        for name, label in zip(names, labels.tolist(), strict=True):
            digest.update(f"{label} {name}\n".encode("utf-8", "surrogateescape"))
        kept, held = stratified(labels, fraction, seed, "test_split")
        return cls(fraction, seed, digest.hexdigest()[:16]), kept, held


def stratified(labels: Tensor, fraction: float, seed: int = 0, name: str = "fraction") -> tuple[Tensor, Tensor]:
    """Hold out `fraction` of each class: (rows kept, rows held out), both sorted.

    A class with n images gives round(fraction * n) of them: at least one if n is 2 or more, and never all.

    >>> kept, held = stratified(torch.tensor([0, 0, 0, 0, 1, 1, 1, 1]), 0.25)
    >>> len(kept), len(held)
    (6, 2)

    Args:
        labels: integers (N,).
        fraction: between 0 and 1.
        seed: of the random choice.
        name: the setting that gives `fraction`, for errors.

    Raises:
        SettingError: `fraction` is not between 0 and 1, or every class has only one image.
    """
    if isinstance(fraction, bool) or not isinstance(fraction, int | float) or not 0 < fraction < 1:
        raise SettingError(f"{name}={fraction!r} must lie between 0 and 1; 0.1 holds out a tenth")
    draw = generator(seed)
    held = torch.zeros(len(labels), dtype=torch.bool)
    order = labels.argsort(stable=True)  # by class, so that the order of the random draws is fixed
    sizes = labels[order].unique_consecutive(return_counts=True)[1]
    for rows in order.split(sizes.tolist()):
        count = min(max(round(fraction * len(rows)), 1), len(rows) - 1)
        held[rows[torch.randperm(len(rows), generator=draw)[:count]]] = True
    if not held.any():
        way_out = "add images" + (", or hold out none with validation=0" if name == "validation" else "")
        raise SettingError(f"{name}={fraction} holds out nothing: every class has a single image; {way_out}")
    return (~held).nonzero().flatten(), held.nonzero().flatten()
