"""What happens to an image before the network sees it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

AUGMENTS = ("none", "crop", "crop_flip", "random_resized_crop")
Transform = Callable[[Tensor], Tensor]


def crop_padding(size: tuple[int, int]) -> tuple[int, int]:
    """Zeros on each side of (height, width) before a random crop: an eighth, 4 for 32 pixels, at least 1."""
    return max(1, round(size[0] / 8)), max(1, round(size[1] / 8))


def train_transform(augment: str, size: tuple[int, int], resize: bool) -> Transform:
    """uint8 (C, H, W) -> uint8 (C, *size), for one image at a time, drawing from torch's global generator.

    Args:
        augment: "none"; "crop", a random crop after zero padding; "crop_flip", the CIFAR papers' crop and horizontal
            flip; "random_resized_crop", ImageNet's, with a flip.
        size: (height, width) of the result.
        resize: images may come in another size; all but "random_resized_crop" then start from the evaluation's crop.
    """
    from torchvision.transforms import v2

    flip = v2.RandomHorizontalFlip()
    steps: list[Transform] = [v2.RandomResizedCrop(size), flip]
    if augment != "random_resized_crop":
        steps = [eval_transform(size, resize)]
    if augment in ("crop", "crop_flip"):
        high, wide = crop_padding(size)
        steps.append(v2.RandomCrop(size, padding=[wide, high]))
    if augment == "crop_flip":
        steps.append(flip)
    composed: Transform = v2.Compose(steps)
    return composed


def eval_transform(size: tuple[int, int], resize: bool, ten_crop: bool = False) -> Transform:
    """uint8 (..., C, H, W) -> uint8 (..., C, *size), or (..., 10, C, *size) for ten crops.

    With `resize` the shorter side becomes size * 256 / 224 and the crops are taken from that, else the image stays as
    it is. Ten crops of an image that has the right size already come from its zero-padded form.
    """
    from torchvision.transforms import v2

    high, wide = crop_padding(size)
    steps: list[Transform] = []
    if resize:
        steps.append(v2.Resize(round(min(size) * 256 / 224)))
    elif ten_crop:
        steps.append(v2.Pad([wide, high]))
    if ten_crop:
        steps += [v2.TenCrop(size), partial(torch.stack, dim=-4)]
    elif resize:
        steps.append(v2.CenterCrop(size))
    return v2.Compose(steps) if steps else _unchanged


def random_crop_flip(images: Tensor, generator: torch.Generator, flip: bool) -> Tensor:
    """A random crop, and flip, for each image of a batch: uint8 (N, C, H, W) -> the same."""
    count, _, height, width = images.shape
    high, wide = crop_padding((height, width))
    top = torch.randint(2 * high + 1, (count,), generator=generator)
    left = torch.randint(2 * wide + 1, (count,), generator=generator)
    mirror = torch.rand(count, generator=generator) < 0.5 if flip else torch.zeros(count, dtype=torch.bool)
    return crop_flip(images, top, left, mirror)


def crop_flip(images: Tensor, top: Tensor, left: Tensor, mirror: Tensor) -> Tensor:
    """Image i padded, cut to its old size from (top[i], left[i]), and mirrored where mirror[i].

    Batched because v2's RandomCrop and flip, one image at a time, make 27,000 images/s of 32x32 on one CPU thread
    against 80,000 here: too slow to feed a GPU from memory. Equal to them, given their draws (tested).
    """
    high, wide = crop_padding((images.shape[2], images.shape[3]))
    padded = torch.nn.functional.pad(images, (wide, wide, high, high))
    windows = padded.unfold(2, images.shape[2], 1).unfold(3, images.shape[3], 1)
    cut = windows[torch.arange(len(images)), :, top, left]
    return torch.where(mirror[:, None, None, None], cut.flip(3), cut)


def normalise(images: Tensor, mean: Sequence[float], std: Sequence[float], channels_last: bool) -> Tensor:
    """(images / 255 - mean) / std, per channel: uint8 (..., C, H, W) -> float32."""
    scale = 1 / (255 * torch.tensor(std).view(-1, 1, 1))
    shift = -torch.tensor(mean).view(-1, 1, 1) / torch.tensor(std).view(-1, 1, 1)
    layout = torch.channels_last if channels_last and images.ndim == 4 else torch.contiguous_format
    return images.to(torch.float32, memory_format=layout).mul_(scale).add_(shift)


def _unchanged(images: Tensor) -> Tensor:
    return images
