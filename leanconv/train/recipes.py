"""Recipes: settings that are known to work, and the settings of the papers."""

from __future__ import annotations

from collections.abc import Callable

from leanconv.train.config import TrainConfig


def quick_digits() -> TrainConfig:
    """The embedded digits, in seconds.

    Hardware: any CPU, about 6 s for ResNet-20 on one core. Expected: 98.3 to 99.2 % on the test part (four runs).
    """
    return TrainConfig(epochs=12, batch_size=32, lr=0.05, augment="crop", precision="bf16")


def cifar_fast() -> TrainConfig:
    """CIFAR in 30 epochs with one cycle.

    lr=0.3 was better than 0.1 on a validation part of CIFAR-10, in the mean over ResNet-20 dense and under four methods after 5
    epochs (results/training-resnet20-cifar10-lr-2026-11-21.json).
    Hardware: a CPU with bfloat16 instructions trains ResNet-20 on about 1,500 images a second with two cores.
    """
    return TrainConfig(epochs=30, lr=0.3, schedule="onecycle", weight_decay=2e-4, precision="auto")


def photos() -> TrainConfig:
    """Photos in a folder: a common starting point for images of more than 64 pixels.

    The learning rate is 0.1 for 256 images, as in the ImageNet recipes below. A lean network recovers at half of it.
    Hardware: a GPU from a few thousand photos on; add `--workers`. Accuracy was not measured here.
    """
    return TrainConfig(
        epochs=30, batch_size=64, lr=0.025, schedule="onecycle", weight_decay=1e-4, augment="random_resized_crop",
        precision="auto",
    )  # fmt: skip


def cifar_speed() -> TrainConfig:
    """CIFAR-10 with `fast_vgg` in 14 epochs, without augmentation at test time.

    Source: Jordan 2024 ("94% on CIFAR-10 in 3.29 Seconds on a Single GPU"), whose learning rate and weight decay are given for a
    sum over 1,024 images and before momentum: lr = 11.5 n / 1024 / (1 + 1 / (1 - 0.85)) for steps of n images. There are more
    epochs than in the source (9.9), which averages over six views of each test image.
    Hardware: two cores with AVX2 alone train about 130 images a second in float32, so that a run takes 90 minutes. Cores with
    bfloat16 instructions are about four times as fast.
    """
    batch_size, momentum = 512, 0.85
    lr = 11.5 * batch_size / 1024 / (1 + 1 / (1 - momentum))
    return TrainConfig(
        epochs=14, batch_size=batch_size, lr=lr, momentum=momentum, weight_decay=0.0153 / 11.5, decoupled=True,
        lr_rules=("*.bn*.bias=64",), schedule="triangle", pct_start=0.23, div_factor=5.0, final_div_factor=0.2 / 0.07,
        label_smoothing=0.2, augment="crop_flip", crop_pad=2, crop_pad_mode="reflect", flip="alternating", lookahead=5,
        precision="auto",
    )  # fmt: skip


def digits_speed() -> TrainConfig:
    """The embedded digits at 32 pixels with `fast_vgg(width=0.5)`: the settings of `cifar_speed` for steps of 64 images.

    Digits are not mirrored, and the labels are smoothed half as much.
    Hardware: any CPU, 10 to 40 s.
    """
    base = cifar_speed()
    return base.replace(
        epochs=6, batch_size=64, lr=base.lr * 64 / base.batch_size, augment="crop", flip="random", label_smoothing=0.1,
        image_size=32,
    )  # fmt: skip


def cifar_speed_long() -> TrainConfig:
    """CIFAR-10 with `fast_vgg_wide` in 25 epochs: as `cifar_speed`, with the learning rate of Jordan's 95 % (10).

    Source: as `cifar_speed` (airbench95: 15 epochs with six views of each test image).
    Hardware: 2.6 times the MACs of `fast_vgg`. Not yet run here.
    """
    base = cifar_speed()
    return base.replace(epochs=25, lr=base.lr * 10 / 11.5, crop_pad=4)


def cifar_paper_resnet() -> TrainConfig:
    """The CIFAR networks of the residual-network paper.

    Paper: He et al. 2016, section 4.2: 64,000 steps of 128 images (164 epochs of all 50,000), lr 0.1, a tenth after
    32,000 and 48,000 steps, weight decay 1e-4; a network of 110 layers has a warm-up first.
    Hardware: two GPUs. Expected: ResNet-20 91.25, ResNet-32 92.49, ResNet-56 93.03 %.
    """
    return TrainConfig(
        epochs=164, schedule="step", milestones=(82, 123), weight_decay=1e-4, nesterov=False, validation=0.0
    )


def cifar_filter_bases() -> TrainConfig:
    """CIFAR networks with filter bases.

    Paper: deeply shared filter bases, section 4.1: 300 epochs, lr 0.1, a tenth at 50 and 75 %, weight decay 5e-4. The
    batch size is the release's; the paper gives none. The regulariser's weight belongs to the method.
    Hardware: not given.
    """
    return TrainConfig(
        epochs=300, batch_size=256, schedule="step", milestones=(0.5, 0.75), weight_decay=5e-4, nesterov=False,
        validation=0.0,
    )  # fmt: skip


def cifar_shardnet() -> TrainConfig:
    """CIFAR networks with one filter set through the depth.

    Paper: ShardNet: 200 epochs, lr 0.05 halved on a plateau, weight decay 5e-4, flips and pad-4 crops. The paper states
    neither what is monitored nor the patience: here the loss on a tenth of the train part, for 10 epochs.
    Hardware: not given.
    """
    return TrainConfig(
        epochs=200, lr=0.05, schedule="plateau", gamma=0.5, patience=10, weight_decay=5e-4, nesterov=False
    )


def cifar_spconv_vgg() -> TrainConfig:
    """CIFAR VGG-16 with split convolutions.

    Paper: SPConv, section 4.1: batch 128, lr 0.1, a tenth every 50 epochs, weight decay 5e-4. The paper does not give the
    number of epochs: here 200.
    Hardware: not given.
    """
    return TrainConfig(
        epochs=200, schedule="step", milestones=(50, 100, 150), weight_decay=5e-4, nesterov=False, validation=0.0
    )


def imagenet_tbc() -> TrainConfig:
    """ImageNet networks with tied blocks.

    Paper: Tied Block Convolution, ImageNet classification: batch 256, lr 0.1, a tenth every 30 of 100 epochs, crops of
    224 pixels and flips. The weight decay is that of the residual-network paper; this paper gives none.
    Hardware: 8 GPUs.
    """
    return _imagenet(epochs=100)


def imagenet_spconv() -> TrainConfig:
    """ImageNet ResNet-50 with split convolutions.

    Paper: SPConv, section 4.2: batch 256, lr 0.1, a tenth every 30 of 90 epochs, weight decay 1e-4.
    Hardware: several GPUs.
    """
    return _imagenet(epochs=90)


def imagenet_filter_bases() -> TrainConfig:
    """ImageNet residual networks with filter bases.

    Paper: deeply shared filter bases, section 4.2: batch 512, 150 epochs, lr 0.1, a tenth at 60, 100 and 140, weight decay
    1e-4. (The release's README has batch 256.)
    Hardware: not given.
    """
    return _imagenet(epochs=150).replace(batch_size=512, milestones=(60, 100, 140))


def imagenet_filter_bases_mobilenet() -> TrainConfig:
    """ImageNet MobileNetV2 with shared filters.

    Paper: deeply shared filter bases, section 4.2: 300 epochs, lr 0.1, a tenth at 150, 225 and 285, weight decay 1e-5.
    Hardware: not given.
    """
    return _imagenet(epochs=300).replace(batch_size=512, milestones=(150, 225, 285), weight_decay=1e-5)


def tiny_shardnet_vgg() -> TrainConfig:
    """Tiny ImageNet VGG networks with one filter set through the depth.

    Paper: ShardNet, appendix A.4: 100 epochs, lr 0.01 divided by 10 on a plateau, weight decay 5e-4, random-resized crops
    of 56 pixels, ten crops at test. The paper gives neither the batch size, nor what is monitored, nor the patience.
    Hardware: not given.
    """
    return cifar_shardnet().replace(
        epochs=100, lr=0.01, gamma=0.1, augment="random_resized_crop", image_size=56, ten_crop=True, precision="bf16"
    )


def tiny_shardnet_resnet() -> TrainConfig:
    """Tiny ImageNet residual networks with one filter set: as `tiny_shardnet_vgg`, with lr 0.05.

    Paper: ShardNet, appendix A.4.
    Hardware: not given.
    """
    return tiny_shardnet_vgg().replace(lr=0.05)


def imagenet_shardnet() -> TrainConfig:
    """ImageNet networks with one filter set: as `tiny_shardnet_vgg`, with lr 0.1 and crops of 224 pixels.

    Paper: ShardNet, appendix A.4.
    Hardware: not given.
    """
    return tiny_shardnet_vgg().replace(lr=0.1, image_size=224, workers=8)


def _imagenet(epochs: int) -> TrainConfig:
    return TrainConfig(
        epochs=epochs, batch_size=256, schedule="step", milestones=tuple(range(30, epochs, 30)), weight_decay=1e-4,
        nesterov=False, augment="random_resized_crop", image_size=224, precision="bf16", validation=0.0, workers=8,
    )  # fmt: skip


SMALL = 64  # pixels; larger images, and images of several sizes, are photos


def default_recipe(data_name: str, image_size: tuple[int, int] | None) -> str:
    """The name of the recipe of a run that names none.

    Args:
        data_name: the name of the data set.
        image_size: (height, width) of all its images as the run gets them; None if they vary.

    >>> default_recipe("digits", (8, 8)), default_recipe("cifar10", (32, 32)), default_recipe("birds", None)
    ('quick_digits', 'cifar_fast', 'photos')
    """
    if data_name == "digits":
        return "quick_digits"
    return "cifar_fast" if image_size is not None and max(image_size) <= SMALL else "photos"


RECIPES: dict[str, Callable[[], TrainConfig]] = {
    recipe.__name__: recipe
    for recipe in (
        quick_digits,
        cifar_fast,
        photos,
        cifar_speed,
        digits_speed,
        cifar_speed_long,
        cifar_paper_resnet,
        cifar_filter_bases,
        cifar_shardnet,
        cifar_spconv_vgg,
        imagenet_tbc,
        imagenet_spconv,
        imagenet_filter_bases,
        imagenet_filter_bases_mobilenet,
        tiny_shardnet_vgg,
        tiny_shardnet_resnet,
        imagenet_shardnet,
    )
}
