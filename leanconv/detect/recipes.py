"""Settings of the papers' detectors."""

from __future__ import annotations

from collections.abc import Callable

from leanconv.core.errors import SettingError
from leanconv.detect.config import DetectConfig


def default() -> DetectConfig:
    """The field's 2x schedule; see `DetectConfig`."""
    return DetectConfig()


def tbc_coco_2x() -> DetectConfig:
    """COCO detectors with tied backbones.

    Paper: Tied Block Convolution, "Object Detection": 2x schedule, 1333 x 800, in mmdetection, whose defaults the rest
    is: 16 photos a step, lr 0.02, weight decay 1e-4, stem and first stage frozen (``frozen=("conv1", "bn1", "layer1")``)
    with frozen norms.
    Hardware: 8 GPUs.
    """
    return DetectConfig(milestones=(16, 22), precision="bf16", workers=8)


def tbc_cityscapes() -> DetectConfig:
    """Cityscapes instance segmentation with tied backbones.

    Paper: Tied Block Convolution, Table 2; it gives no settings. mmdetection's: 64 epochs, 8 photos a step, lr 0.01, a
    tenth after 56 epochs, shorter sides from 800 to 1024 of 2048 x 1024.
    Hardware: 8 GPUs.
    """
    sizes = (800, 832, 864, 896, 928, 960, 992, 1024)
    return DetectConfig(
        epochs=64, batch_size=8, lr=0.01, milestones=(56,), min_size=sizes, max_size=2048, precision="bf16", workers=8
    )


def coco_1x() -> DetectConfig:
    """COCO detectors in 12 epochs: mmdetection's default, which SPConv (section 4.4) and the GCB rows of TBC use.

    The papers say no more than that. trainval35k is COCO 2017's train part, minival its val part.
    Hardware: 8 GPUs.
    """
    return DetectConfig(epochs=12, milestones=(8, 11), precision="bf16", workers=8)


RECIPES: dict[str, Callable[[], DetectConfig]] = {
    recipe.__name__: recipe for recipe in (default, tbc_coco_2x, tbc_cityscapes, coco_1x)
}


def recipe_of(name: str | None) -> DetectConfig:
    """The recipe called so; the default for None.

    Raises:
        SettingError: there is none.
    """
    if name is None:
        return default()
    if name not in RECIPES:
        raise SettingError(f"--recipe {name!r} does not exist; there are {', '.join(RECIPES)}")
    return RECIPES[name]()
