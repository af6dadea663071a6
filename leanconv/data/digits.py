"""scikit-learn's handwritten digits: real images that come with the package it needs anyway."""

from __future__ import annotations

import torch

from leanconv.data.images import ImageData, TensorImages


def digits() -> ImageData:
    """1,797 grey images of 8x8 pixels, ten classes, 17 grey levels spread over 0..255.

    scikit-learn does not divide them, so the test part is made here and fixed: of each class every fifth image in the
    order of the file (355 images). Results on it compare with each other, not with published ones.
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
