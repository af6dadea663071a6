"""What a step does with its images and gradients: parts, clipping, mixing, augmentation; all exact on resume."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from leanconv.core.errors import RunError, SettingError
from leanconv.data import ImageData, TensorImages, make_loader
from leanconv.data.transforms import extra_transforms, mixes_of
from leanconv.experiment.settings import settings_for
from leanconv.train import TrainConfig, fit
from leanconv.train.base import seed_all
from leanconv.train.module import TrainModule
from tests.train.conftest import SMALL, Net
from tests.train.test_fit import Pull
from tests.train.test_resume import check_continues

TWO = SMALL.replace(epochs=2)
CONFIGS = {
    "parts": TWO.replace(accumulate=4, clip=0.5, precision="bf16", ema=0.5),
    "mixed": TWO.replace(mixup=0.4, cutmix=1.0, label_smoothing=0.1, accumulate=2, optimizer="adamw", lr=0.01),
    "randaugment": TWO.replace(auto_augment="randaugment", randaugment_magnitude=20, erase=0.5, deterministic=True),
    "trivialaugment": TWO.replace(auto_augment="trivialaugment", mixup=0.2, schedule="plateau", patience=0),
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_stopped_within_an_epoch_and_continued(config: TrainConfig, data: ImageData, tmp_path: Path) -> None:
    parts = config.accumulate
    check_continues(lambda last: Net(last), data, config, tmp_path, steps=(1, 5 * parts) if parts > 1 else (1, 5))


class Sizes(nn.Module):
    """Notes the number of images of each forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.seen.append(len(x))
        return x


@pytest.mark.parametrize(
    ("batch_size", "sizes"), [(48, [12] * 12), (200, [41, 41, 40, 40])], ids=["whole batches", "a small batch"]
)
def test_parts_give_the_step_of_the_whole_batch(
    batch_size: int, sizes: list[int], data: ImageData, tmp_path: Path
) -> None:
    """Without norms and dropout; the sums, the penalty, the mixing and the clipping are of the whole batch too."""
    config = TrainConfig(
        epochs=1, batch_size=batch_size, lr=0.5, schedule="constant", augment="crop", validation=0, label_smoothing=0.1,
        clip=0.3, mixup=0.5, threads=1,
    )  # fmt: skip
    results, models = [], []
    for parts in (1, 4):
        torch.manual_seed(0)
        models.append(nn.Sequential(Sizes(), nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(144, 3), Pull()))
        config = config.replace(accumulate=parts)
        results.append(fit(models[-1], data, config, tmp_path / str(parts), progress=False).history[-1])
    assert models[1][0].seen == sizes
    torch.testing.assert_close(models[1].state_dict(), models[0].state_dict(), rtol=1e-4, atol=1e-6)
    for name in ("train_loss", "penalty", "train_top1_pct", "lr"):
        assert results[1][name] == pytest.approx(results[0][name], rel=1e-5), name


def test_gradients_are_clipped_by_their_common_norm(data: ImageData, tmp_path: Path) -> None:
    config = TrainConfig(
        epochs=1, batch_size=162, lr=1.0, schedule="constant", augment="none", validation=0, clip=0.01, threads=1,
        momentum=0, nesterov=False, weight_decay=0,
    )  # fmt: skip
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    before = copy.deepcopy(model)
    fit(model, data, config, tmp_path, progress=False)
    steps = [old - new for old, new in zip(before.parameters(), model.parameters(), strict=True)]
    assert float(torch.cat([step.detach().flatten() for step in steps]).norm()) == pytest.approx(0.01, rel=1e-3)


def test_mixed_labels_are_shares_and_the_larger_one_counts() -> None:
    config = TrainConfig(mixup=0.3)
    module = TrainModule(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), config, classes=3)
    images, labels = torch.randn(6, 1, 8, 8), torch.tensor([0, 1, 2, 0, 1, 2])
    seed_all(1, torch.device("cpu"))
    ((mixed, soft),) = module.parts((images, labels))
    share = float(soft[1, 1])
    assert 0 < share < 1 and torch.allclose(soft.sum(dim=1), torch.ones(6))
    torch.testing.assert_close(mixed, share * images + (1 - share) * images.roll(1, 0))
    loss, values = module.measure((mixed, soft), torch.zeros(()))
    logits = module.model(mixed)
    expected = share * F.cross_entropy(logits, labels) + (1 - share) * F.cross_entropy(logits, labels.roll(1))
    torch.testing.assert_close(loss, expected)
    larger = labels if share > 0.5 else labels.roll(1)
    assert float(values[2]) == pytest.approx(float((logits.argmax(1) == larger).float().mean()))


def test_cutmix_pastes_a_rectangle_of_the_stated_share() -> None:
    seed_all(2, torch.device("cpu"))
    images = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 1, 16, 16).contiguous(memory_format=torch.channels_last)
    mixed, soft = mixes_of(0, 1.0, classes=4)[0](images, torch.arange(4))
    for i in range(4):
        own = float((mixed[i] == i).float().mean())
        assert float(soft[i, i]) == pytest.approx(own) and float(soft[i, i - 1]) == pytest.approx(1 - own)


def photos(count: int = 24, channels: int = 3) -> TensorImages:
    draw = torch.Generator().manual_seed(0)
    return TensorImages(
        torch.randint(0, 256, (count, channels, 12, 12), generator=draw, dtype=torch.uint8), torch.arange(count) % 2
    )


def batches(extra: tuple[Any, ...], **settings: Any) -> Tensor:
    loader = make_loader(
        photos(),
        mean=[0.2, 0.4, 0.6],
        std=[1.0] * 3,
        batch_size=8,
        extra=extra,
        **{"train": True, "seed": 3} | settings,
    )
    return torch.cat([images for images, _ in loader])


@pytest.mark.parametrize("name", ["randaugment", "trivialaugment"])
def test_augmentation_depends_on_seed_epoch_and_image_alone(name: str) -> None:
    extra = extra_transforms(name, 2, 15, 0.5, [0.2, 0.4, 0.6])
    first = batches(extra, augment="crop_flip")
    assert torch.equal(first, batches(extra, augment="crop_flip", workers=2))
    assert not torch.equal(first, batches(extra, augment="crop_flip", seed=4))
    loader = make_loader(photos(), mean=[0.2, 0.4, 0.6], std=[1.0] * 3, batch_size=8, extra=extra, train=True, seed=3)
    loader.set_epoch(1)
    assert not torch.equal(first, torch.cat([images for images, _ in loader]))
    plain = batches((), train=False)
    assert torch.equal(batches(extra, train=False), plain), "evaluation augments nothing"


def test_strength_of_randaugment() -> None:
    def change(magnitude: int) -> float:
        return float(
            (batches(extra_transforms("randaugment", 1, magnitude, 0, [0.2, 0.4, 0.6])) - batches(())).abs().mean()
        )

    weak, strong = change(1), change(30)
    assert 0 < weak < strong


def test_erasing_fills_with_the_mean_colour() -> None:
    images = batches(extra_transforms("none", 2, 9, 1.0, [0.2, 0.4, 0.6]))
    erased = (images.abs() < 1 / 255).all(dim=1).float().mean(dim=(1, 2))
    assert bool((erased > 0.01).all()) and bool((erased < 0.4).all()) and len(erased.unique()) > 3
    assert extra_transforms("none", 2, 9, 0.0, [0.5]) == ()


def test_images_of_other_channels_are_refused() -> None:
    with pytest.raises(
        SettingError, match="auto_augment='randaugment' takes images of 1 or 3 channels, not 2; use 'none'"
    ):
        extra_transforms("randaugment", 2, 9, 0, [0.5, 0.5])
    with pytest.raises(SettingError, match="auto_augment='auto' must be one of none, randaugment, trivialaugment"):
        extra_transforms("auto", 2, 9, 0, [0.5])


def test_a_data_set_that_prepares_its_images_is_not_augmented(data: ImageData) -> None:
    own = ImageData(data.name, data.classes, data.train, data.test, data.mean, data.std, prepared=True)
    config = settings_for(TrainConfig(auto_augment="randaugment", erase=0.5, mixup=0.2), own, {})
    assert (config.auto_augment, config.erase, config.mixup) == ("none", 0.0, 0.2)


class Put(nn.Module):
    """torch has no deterministic algorithm for put_ without accumulation."""

    def forward(self, x: Tensor) -> Tensor:
        assert torch.are_deterministic_algorithms_enabled()
        return x + torch.zeros(3).put_(torch.tensor([0]), torch.ones(1))


def test_deterministic_during_the_run_only(data: ImageData, tmp_path: Path) -> None:
    with pytest.raises(
        RunError, match="deterministic=True: torch has no deterministic algorithm for put_; leave it out"
    ):
        fit(Net(Put()), data, TWO.replace(deterministic=True), tmp_path, progress=False)
    assert not torch.are_deterministic_algorithms_enabled()
