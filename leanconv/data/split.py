"""A part of every class held out."""

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
    """How a test part was taken from images that had none: the same again for the same images.

    Args:
        fraction, seed: of `stratified`.
        images: a digest of the images' names and labels, by which a run knows them again.
    """

    fraction: float
    seed: int
    images: str

    @classmethod
    def of(cls, fraction: float, names: Iterable[str], labels: Tensor, seed: int = 0) -> tuple[HeldOut, Tensor, Tensor]:
        """(this, rows to train on, rows to test on).

        Raises:
            SettingError: fraction is not between 0 and 1, or no class can give an image.
        """
        digest = hashlib.sha256()
        for name, label in zip(names, labels.tolist(), strict=True):
            digest.update(f"{label} {name}\n".encode("utf-8", "surrogateescape"))
        kept, held = stratified(labels, fraction, seed)
        return cls(fraction, seed, digest.hexdigest()[:16]), kept, held


def stratified(labels: Tensor, fraction: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """(kept, held out): sorted row numbers, with `fraction` of each class held out.

    Each class gives round(fraction * its images), at least one where it has two, and never its last one.

    Raises:
        SettingError: fraction is not between 0 and 1, or no class can give an image.
    """
    if not 0 < fraction < 1:
        raise SettingError(f"fraction={fraction} must lie between 0 and 1; 0.1 holds out a tenth")
    draw = generator(seed)
    held = torch.zeros(len(labels), dtype=torch.bool)
    for label in sorted(set(labels.tolist())):  # sorted, so the draws come in one order
        rows = (labels == label).nonzero().flatten()
        count = min(max(round(fraction * len(rows)), 1), len(rows) - 1)
        held[rows[torch.randperm(len(rows), generator=draw)[:count]]] = True
    if not held.any():
        raise SettingError(f"fraction={fraction} holds out nothing: every class has a single image; add images")
    return (~held).nonzero().flatten(), held.nonzero().flatten()
