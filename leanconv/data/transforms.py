"""Augmentation, resizing and normalisation of images."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from leanconv.core.errors import SettingError
from leanconv.data.seeds import generator

LONG = 16  # an image that is longer than this many crops is cut to its middle first, to fit into memory
AUGMENTS = ("none", "crop", "crop_flip", "random_resized_crop")
Transform = Callable[[Tensor], Tensor]


def crop_padding(size: tuple[int, int]) -> tuple[int, int]:
    """Pixels of zero padding on each side before a random crop, for (height, width): an eighth of the side, at least 1.

    >>> crop_padding((32, 32))
    (4, 4)
    """
    return max(1, round(size[0] / 8)), max(1, round(size[1] / 8))


@dataclass(frozen=True)
class Crop:
    """How images are cropped and mirrored in training.

    Args:
        pad: pixels of padding on each side before a random crop; None takes an eighth of the side.
        pad_mode: "zeros", or "reflect" for the mirrored border.
        flip: "random" mirrors each image with probability 1/2 in each epoch; "alternating" draws once for each image, and
            mirrors it in every second epoch, so that each image is seen in both directions equally often (Jordan 2024).
    """

    pad: int | None = None
    pad_mode: str = "zeros"
    flip: str = "random"

    def padding(self, size: tuple[int, int]) -> tuple[int, int]:
        """Pixels of padding (above and below, left and right) for images of (height, width)."""
        return crop_padding(size) if self.pad is None else (self.pad, self.pad)

    def torch_mode(self) -> str:
        """The padding mode in the words of torch and torchvision."""
        return "constant" if self.pad_mode == "zeros" else self.pad_mode


PAPERS = Crop()  # the crop and flip of the CIFAR papers


def flips(augment: str) -> bool:
    """Whether an augmentation mirrors images."""
    return augment in ("crop_flip", "random_resized_crop")


def train_transform(
    augment: str, size: tuple[int, int], crop: Crop = PAPERS, extra: Sequence[Transform] = ()
) -> Transform:
    """The training transform of one image: uint8 (C, H, W) -> uint8 (C, *size). It uses torch's global generator.

    Args:
        augment: "none"; "crop": a random crop after zero padding; "crop_flip": the crop and horizontal flip of the CIFAR
            papers; "random_resized_crop": the crop of ImageNet training, with a horizontal flip.
        size: (height, width) of the result. `eval_transform` comes first, except for "random_resized_crop".
        crop: the padding; and the flip, which is left out here if it alternates, because it depends on the epoch.
        extra: transforms that come last.
    """
    from torchvision.transforms import v2

    steps: list[Transform] = [v2.RandomResizedCrop(size)]
    if augment != "random_resized_crop":
        steps = [eval_transform(size)]
    if augment in ("crop", "crop_flip"):
        high, wide = crop.padding(size)
        steps.append(v2.RandomCrop(size, padding=[wide, high], padding_mode=crop.torch_mode()))
    if flips(augment) and crop.flip == "random":
        steps.append(v2.RandomHorizontalFlip())
    composed: Transform = v2.Compose([*steps, *extra])
    return composed


def extra_transforms(
    auto_augment: str, ops: int, magnitude: int, erase: float, mean: Sequence[float]
) -> tuple[Transform, ...]:
    """Further training transforms of one image, uint8 (C, H, W) -> same, with torch's global generator; () for none.

    Args:
        auto_augment: "none", "randaugment" or "trivialaugment" (TrivialAugmentWide), as in torchvision.
        ops, magnitude: the number of RandAugment's operations, and their strength of 0 to 30.
        erase: the probability that a rectangle becomes the mean colour; its size is as in torchvision's RandomErasing.
        mean: the mean of each channel, in [0, 1].

    Raises:
        SettingError: `auto_augment` does not exist, or the images have neither one channel nor three.

    >>> len(extra_transforms("trivialaugment", 2, 9, 0.5, mean=[0.5]))
    2
    """
    from torchvision.transforms import v2

    made: dict[str, Callable[[], Transform]] = {
        "randaugment": lambda: v2.RandAugment(ops, magnitude),
        "trivialaugment": v2.TrivialAugmentWide,
    }
    if auto_augment not in ("none", *made):
        raise SettingError(f"auto_augment={auto_augment!r} must be one of none, {', '.join(made)}")
    if auto_augment != "none" and len(mean) not in (1, 3):
        raise SettingError(
            f"auto_augment={auto_augment!r} takes images of 1 or 3 channels, not {len(mean)}; use 'none'"
        )
    steps = [made[auto_augment]()] if auto_augment in made else []
    if erase:
        steps.append(v2.RandomErasing(erase, value=[round(255 * level) for level in mean]))
    return tuple(steps)


def mixes_of(mixup: float, cutmix: float, classes: int) -> list[Callable[..., tuple[Tensor, Tensor]]]:
    """torchvision's Mixup and CutMix of a batch, for each alpha above 0; they use torch's global generator.

    Image i is mixed with image i - 1 by a share that is drawn once for the batch: Mixup takes a weighted mean, CutMix pastes a
    rectangle. The labels become the shares of the classes.

    Shape:
        images: float (N, C, H, W) -> same; labels: int64 (N,) -> float (N, classes).

    >>> images, labels = mixes_of(0.2, 0, classes=3)[0](torch.rand(4, 1, 8, 8), torch.tensor([0, 1, 2, 2]))
    >>> labels.shape, round(labels.sum().item())
    (torch.Size([4, 3]), 4)
    """
    from torchvision.transforms import v2

    mixes = [v2.MixUp(alpha=mixup, num_classes=classes)] if mixup else []
    return mixes + ([v2.CutMix(alpha=cutmix, num_classes=classes)] if cutmix else [])


def eval_transform(size: tuple[int, int], ten_crop: bool = False) -> Transform:
    """The evaluation transform: uint8 (..., C, H, W) -> uint8 (..., C, *size), or (..., 10, C, *size) for ten crops.

    An image of this size does not change, whatever sizes the other images of its part have. Another image is scaled until one
    side is 256 / 224 of this size and the other side no less, and the centre is cropped. For a square, the shorter side is
    the first.

    Args:
        size: (height, width) of the result.
        ten_crop: take ten crops; of an image of this size, after zero padding.
    """
    from torchvision.transforms import v2

    high, wide = crop_padding(size)
    enlarged = partial(_enlarged, size=size, centre=not ten_crop)
    if not ten_crop:
        return partial(_fitted, size=size, same=_unchanged, other=v2.Compose([enlarged, v2.CenterCrop(size)]))
    crops = [v2.TenCrop(size), partial(torch.stack, dim=-4)]
    return partial(
        _fitted, size=size, same=v2.Compose([v2.Pad([wide, high]), *crops]), other=v2.Compose([enlarged, *crops])
    )


def random_crop_flip(
    images: Tensor,
    draw: torch.Generator,
    flip: bool,
    crop: Crop = PAPERS,
    mirror: Tensor | None = None,
    share: tuple[int, int] = (0, 1),
) -> Tensor:
    """A random crop after padding for each image of a batch, and a flip if `flip`: uint8 (N, C, H, W) -> same.

    Args:
        draw: the source of random numbers.
        flip: mirror images.
        crop: the padding.
        mirror: which images to mirror, bool (N,); None draws them with probability 1/2.
        share: (rank, processes): the images are every `processes`-th of a larger batch, beginning with image `rank`. The
            numbers are drawn for the larger batch.
    """
    height, width = images.shape[2:]
    high, wide = crop.padding((height, width))
    rank, processes = share
    count = len(images) * processes
    top = torch.randint(2 * high + 1, (count,), generator=draw)[rank::processes]
    left = torch.randint(2 * wide + 1, (count,), generator=draw)[rank::processes]
    if not flip:
        mirror = torch.zeros(len(images), dtype=torch.bool)
    elif mirror is None:
        mirror = (torch.rand(count, generator=draw) < 0.5)[rank::processes]
    return crop_flip(images, top, left, mirror, crop)


def crop_flip(images: Tensor, top: Tensor, left: Tensor, mirror: Tensor, crop: Crop = PAPERS) -> Tensor:
    """Pad each image i, crop it to its old size at (top[i], left[i]), and mirror it if mirror[i] is true.

    This works on whole batches, because torchvision v2's RandomCrop and flip on single images are too slow to feed a GPU from
    memory: on one CPU thread they make 27,000 images/s of 32x32 pixels, and this function makes 80,000. Given the same random
    numbers, the results are equal (tested).

    Shape:
        images: uint8 (N, C, H, W) -> (N, C, H, W); top, left: integers (N,); mirror: bool (N,).
    """
    high, wide = crop.padding((images.shape[2], images.shape[3]))
    padded = torch.nn.functional.pad(images, (wide, wide, high, high), mode=crop.torch_mode())
    windows = padded.unfold(2, images.shape[2], 1).unfold(3, images.shape[3], 1)
    cut = windows[torch.arange(len(images)), :, top, left]
    return torch.where(mirror[:, None, None, None], cut.flip(3), cut)


def alternating(count: int, seed: int) -> Tensor:
    """The images that an alternating flip mirrors in the first epoch: bool (count,). In the second epoch it mirrors the others.

    >>> alternating(4, seed=0)
    tensor([ True, False,  True,  True])
    """
    return torch.randint(2, (count,), generator=generator(seed, 2)).bool()


def normalise(images: Tensor, mean: Sequence[float], std: Sequence[float], channels_last: bool) -> Tensor:
    """(images / 255 - mean) / std, per channel: uint8 (..., C, H, W) -> float32 (..., C, H, W).

    >>> normalise(torch.full((1, 1, 1), 255, dtype=torch.uint8), [0.5], [0.25], channels_last=False)
    tensor([[[2.]]])

    Args:
        mean, std: one value per channel, in [0, 1].
        channels_last: memory format of the result, for batches (N, C, H, W).
    """
    scale = 1 / (255 * torch.tensor(std).view(-1, 1, 1))
    shift = -torch.tensor(mean).view(-1, 1, 1) / torch.tensor(std).view(-1, 1, 1)
    scale, shift = scale.to(images.device), shift.to(images.device)
    layout = torch.channels_last if channels_last and images.ndim == 4 else torch.contiguous_format
    return images.to(torch.float32, memory_format=layout).mul_(scale).add_(shift)


def _fitted(images: Tensor, size: tuple[int, int], same: Transform, other: Transform) -> Tensor:
    """`same` of images of this size, `other` of all others."""
    return (same if tuple(images.shape[-2:]) == size else other)(images)


def scaled_size(own: tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
    """The size to which an image is scaled before it is cropped: one side is 256 / 224 of `size`, and the other no less.

    Args:
        own: (height, width) of the image.
        size: (height, width) of the crop.

    >>> scaled_size((100, 200), (224, 224)), scaled_size((100, 100), (64, 128))
    ((256, 512), (146, 146))
    """
    (height, width), (high, wide) = own, size
    if high * width >= wide * height:  # the height decides, as it does for a square and a landscape photo
        high = round(high * 256 / 224)
        return high, high * width // height
    wide = round(wide * 256 / 224)
    return wide * height // width, wide


def _enlarged(images: Tensor, size: tuple[int, int], centre: bool) -> Tensor:
    """The images scaled to `scaled_size`. With `centre`, the ends of very long images are left out: the crop has none of them."""
    from torchvision.transforms.v2 import functional

    if centre:
        height, width = images.shape[-2:]
        images = _middle(_middle(images, -1, height * size[1] / size[0]), -2, width * size[0] / size[1])
    return functional.resize(images, list(scaled_size((images.shape[-2], images.shape[-1]), size)), antialias=True)


def _middle(images: Tensor, side: int, enough: float) -> Tensor:
    """The middle of images whose side is more than `LONG` times as long as the crop can show."""
    own = images.shape[side]
    kept = math.ceil(LONG * enough)
    kept += (own - kept) % 2  # the middle stays where it is
    return images if kept >= own else images.narrow(side, (own - kept) // 2, kept)


def _unchanged(images: Tensor) -> Tensor:
    return images
