"""scikit-learn's handwritten digits: real images that need no download."""

from __future__ import annotations

import torch

from leanconv.data.images import ImageData, TensorImages


def digits() -> ImageData:
    """1,797 grey images of 8x8 pixels in ten classes; the 17 grey levels are scaled to 0..255.

    scikit-learn has no test set for the digits. This function makes a fixed one: every fifth image of each class, in the order
    of the file (355 images). Compare results on this test set with each other, not with published results.

    >>> data = digits()
    >>> len(data.train), len(data.test), data.image_size
    (1442, 355, (8, 8))
    """
    from sklearn.datasets import load_digits

    source = load_digits()
    images = torch.from_numpy(source.images).mul(255 / 16).round().to(torch.uint8).unsqueeze(1)
    labels = torch.from_numpy(source.target).to(torch.int64)
    place = torch.nn.functional.one_hot(labels).cumsum(dim=0).gather(1, labels[:, None]).squeeze(1)
    test = place % 5 == 0  # place 1, 2, ... within its class
    classes = tuple(str(name) for name in source.target_names)
    return ImageData.of(
        "digits", classes, TensorImages(images[~test], labels[~test]), TensorImages(images[test], labels[test])
    )
