"""How good a network is on labelled images."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from leanconv.core.modes import evaluating
from leanconv.data import LabelledImages, make_loader
from leanconv.train.failures import failures
from leanconv.train.scoring import Scores, autocast, predict, tally


def evaluate(
    model: nn.Module,
    images: LabelledImages,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    batch_size: int = 500,
    ten_crop: bool = False,
    precision: str = "fp32",
    channels_last: bool = True,
    image_size: int | None = None,
    workers: int = 0,
) -> Scores:
    """Top-1 and top-5 accuracy and cross-entropy of `model`, where it is and in evaluation mode.

    Args:
        ten_crop: average the probabilities over ten crops of each image.
        precision: "fp32" or "bf16" (autocast).
        image_size: as in `make_loader`.
    """
    loader = make_loader(
        images, mean=mean, std=std, batch_size=batch_size, image_size=image_size, train=False,
        workers=workers, channels_last=channels_last, ten_crop=ten_crop,
    )  # fmt: skip
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    total = torch.zeros(4, device=device)
    with evaluating(model), torch.inference_mode(), autocast(device, precision), failures():
        for batch, labels in loader:
            total += tally(predict(model, batch.to(device)), labels.to(device))
    return Scores.of(total)
