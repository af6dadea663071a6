"""Photos as the backbone of a detector gets them: resized, normalised, and all of one size."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from leanconv.core.errors import DataError
from leanconv.core.meta import InputSize
from leanconv.core.modes import evaluating
from leanconv.data.seeds import generator
from leanconv.detect.data import Photo
from leanconv.detect.feed import read_image


def usual_size(photos: Sequence[Photo]) -> tuple[int, int]:
    """The (height, width) that most photos have; of several, the first."""
    return Counter((photo.height, photo.width) for photo in photos).most_common(1)[0][0]


def input_size_of(detector: nn.Module, photos: Sequence[Photo]) -> InputSize:
    """The input size of the backbone for a photo of the usual size, after the detector's own resizing and padding."""
    shape = resized(detector, torch.zeros(3, *usual_size(photos))).shape
    return (3, int(shape[1]), int(shape[2]))


@torch.no_grad()
def resized(detector: nn.Module, image: Tensor) -> Tensor:
    """A photo as the backbone of `detector` gets it in evaluation.

    Shape:
        image: (3, H, W) in [0, 1] -> (3, H', W').
    """
    transform: Any = detector.get_submodule("transform")
    with evaluating(transform):
        images, _ = transform([image])
    found: Tensor = images.tensors[0]
    return found


def calibration_photos(
    detector: nn.Module, photos: Sequence[Photo], count: int, size: tuple[int, int], seed: int
) -> Tensor:
    """`count` random photos as the backbone gets them, without labels.

    A photo that is larger than `size` after the resizing is cropped on the right and at the bottom. A smaller one is padded with
    zeros there, as detectors pad a batch of photos. Photos that cannot be read are left out.

    Args:
        detector: whose `transform` resizes and normalises.
        photos: the photos to draw from, without repetition.
        count: how many; there may be fewer photos.
        size: (height, width) of all.
        seed: of the draw.

    Shape:
        -> (N, 3, height, width).

    Raises:
        DataError: no photo can be read.
    """
    height, width = size
    found: list[Tensor] = []
    said = ""
    for row in torch.randperm(len(photos), generator=generator(seed, 0)).tolist():
        if len(found) == count:
            break
        try:
            image = resized(detector, read_image(photos[row]))[:, :height, :width]
        except DataError as error:
            said = f"; the last one: {error}"
            continue
        found.append(F.pad(image, (0, width - image.shape[2], 0, height - image.shape[1])))
    if not found:
        raise DataError(f"none of the {len(photos)} photos can be read{said}")
    return torch.stack(found)
