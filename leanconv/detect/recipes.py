"""Recipes: the settings with which the papers train their detectors."""

from __future__ import annotations

from collections.abc import Callable

from leanconv.core.errors import SettingError
from leanconv.detect.config import DetectConfig


def default() -> DetectConfig:
    """The usual 2x schedule; see `DetectConfig`."""
    return DetectConfig()


def tbc_coco_2x() -> DetectConfig:
    """COCO detectors with tied backbones.

    Paper: Tied Block Convolution, "Object Detection": 2x schedule, 1333 x 800, in mmdetection. The other settings are the
    defaults of mmdetection: 16 photos in a step, lr 0.02, weight decay 1e-4, frozen stem and first stage
    (``frozen=("conv1", "bn1", "layer1")``), and frozen batch norms.
    Hardware: 8 GPUs.
    """
    return DetectConfig(milestones=(16, 22), precision="bf16", workers=8)


def tbc_cityscapes() -> DetectConfig:
    """Cityscapes instance segmentation with tied backbones.

    Paper: Tied Block Convolution, Table 2, which gives no settings. These are mmdetection's: 64 epochs, 8 photos in a step,
    lr 0.01, a tenth of it after 56 epochs, and shorter sides from 800 to 1024 pixels for photos of 2048 x 1024.
    Hardware: 8 GPUs.
    """
    sizes = (800, 832, 864, 896, 928, 960, 992, 1024)
    return DetectConfig(
        epochs=64, batch_size=8, lr=0.01, milestones=(56,), min_size=sizes, max_size=2048, precision="bf16", workers=8
    )


def coco_1x() -> DetectConfig:
    """COCO detectors in 12 epochs: the default of mmdetection, which SPConv (section 4.4) and the GCB rows of TBC use.

    The papers give no further settings. Their trainval35k is the train part of COCO 2017, and their minival is its val part.
    Hardware: 8 GPUs.
    """
    return DetectConfig(epochs=12, milestones=(8, 11), precision="bf16", workers=8)


RECIPES: dict[str, Callable[[], DetectConfig]] = {
    recipe.__name__: recipe for recipe in (default, tbc_coco_2x, tbc_cityscapes, coco_1x)
}


def recipe_of(name: str | None) -> DetectConfig:
    """The settings of the recipe `name`; None means `default`.

    >>> recipe_of("coco_1x").epochs
    12

    Raises:
        SettingError: there is no such recipe.
    """
    if name is None:
        return default()
    if name not in RECIPES:
        raise SettingError(f"--recipe {name!r} does not exist; there are {', '.join(RECIPES)}")
    return RECIPES[name]()
