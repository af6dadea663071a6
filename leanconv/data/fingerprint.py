"""By which a run recognises its images: a folder of the same name may hold others, and so may a data set in Python."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Protocol

import torch
from torch import Tensor

FINGERPRINT = "images_digest"  # its name in a run's identity; older runs have none
NORMALISATION = "normalisation"  # mean and std there, which a user may set; older runs have none
OBJECTS = "objects_digest"  # that of all labelled objects of photos; older runs have none
LOOKED_AT = 16  # images of each part


class Part(Protocol):
    """Images with labels."""

    labels: Tensor

    def __len__(self) -> int: ...

    def contents(self, places: Sequence[int]) -> list[bytes]:
        """What the images at `places` are recognised by."""


def fingerprint(*parts: Part) -> str:
    """A hash of all labels, and of 16 images of each part, spread evenly.

    Files are compared as they are stored, wherever their folder is. One other image among many may stay unseen.

    >>> from leanconv.data.images import TensorImages
    >>> black, white = (torch.full((2, 3, 8, 8), value, dtype=torch.uint8) for value in (0, 255))
    >>> labels = torch.tensor([0, 1])
    >>> fingerprint(TensorImages(black, labels)) == fingerprint(TensorImages(white, labels))
    False
    """
    return digest(
        piece for part in parts for piece in (part.labels.numpy().tobytes(), *part.contents(spread(len(part))))
    )


def digest(pieces: Iterable[bytes]) -> str:
    """A short hash of several byte strings and their borders.

    >>> digest([b"ab", b"c"]) == digest([b"a", b"bc"])
    False
    """
    total = hashlib.sha256()
    for piece in pieces:
        total.update(hashlib.sha256(piece).digest())
    return total.hexdigest()[:16]


def spread(count: int, most: int = LOOKED_AT) -> list[int]:
    """At most `most` of `count` places, evenly.

    >>> spread(100, 3)
    [0, 49, 99]
    """
    return torch.linspace(0, count - 1, min(most, count)).long().tolist()
