from __future__ import annotations

from dataclasses import FrozenInstanceError
from typing import Any, get_args

import pytest

from leanconv.core.errors import SettingError
from leanconv.data import AUGMENTS
from leanconv.train import RECIPES, TrainConfig
from leanconv.train.schedules import learning_rate


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr": 0}, "lr=0 must be a number above 0"),
        ({"lr": float("nan")}, "lr=nan must be a number above 0"),
        ({"lr": "fast"}, "lr='fast' must be a number above 0"),
        ({"lr": True}, "lr=True must be a number above 0"),
        ({"epochs": 1.5}, "epochs=1.5 must be a whole number of at least 1"),
        ({"threads": 0}, "threads=0 must be a whole number of at least 1, or None"),
        ({"nesterov": "yes"}, "nesterov='yes' must be true or false"),
        ({"milestones": "1,2"}, "milestones='1,2' must be a list, each entry a number"),
        ({"milestones": 3}, "milestones=3 must be a list, each entry a number"),
        ({"epochs": 0}, "epochs=0 must be a whole number of at least 1"),
        ({"momentum": 1}, "momentum=1 must be a number of at least 0 and below 1"),
        (
            {"schedule": "cos"},
            "schedule='cos' must be 'cosine', 'onecycle', 'triangle', 'step', 'plateau' or 'constant'",
        ),
        ({"epoch": 3}, "epoch=3: no such setting; did you mean epochs?"),
        ({"zzz": 3}, "zzz=3: no such setting; valid are epochs, batch_size"),
        ({"freeze": [3]}, "freeze=[3] must be a list, each entry a text"),
        ({"freeze": "a.*"}, "freeze='a.*' must be a list, each entry a text"),
        ({"lr_rules": ["a.*"]}, "lr_rules: 'a.*' must be a glob, = and a number above 0, such as *.bias=64"),
        ({"lr_rules": ["a.*=0"]}, "lr_rules: 'a.*=0' must be"),
        ({"weight_decay_rules": ["=1"]}, "weight_decay_rules: '=1' must be a glob, = and a number of at least 0"),
        ({"weight_decay_rules": ["a=inf"]}, "weight_decay_rules: 'a=inf' must be"),
        ({"betas": (0.9,)}, "betas=(0.9,) must be two numbers"),
        ({"optimizer": "adam"}, "optimizer='adam' must be 'sgd', 'adamw' or 'muon'"),
        ({"momentum": 0}, "nesterov=True needs a momentum above 0; set nesterov=False"),
        ({"epochs": 2, "schedule": "cosine", "warmup_epochs": 2}, "warmup_epochs=2.0 must be below epochs=2"),
        ({"warmup_epochs": 1}, "warmup_epochs=1.0 cannot be combined with schedule='onecycle'; set 0"),
        ({"schedule": "step", "milestones": (0.75, 0.5)}, "milestones=(0.75, 0.5) must rise"),
        ({"schedule": "plateau", "validation": 0}, "schedule='plateau' follows the validation loss; set validation"),
        ({"select": "best", "validation": 0}, "select='best' needs a validation part; set validation above 0"),
    ],
)
def test_a_bad_setting_is_one_line(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError) as caught:
        TrainConfig(**settings)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_config_is_frozen_and_replaced() -> None:
    config = TrainConfig()
    assert config.replace(lr=0.2) == TrainConfig(lr=0.2)
    with pytest.raises(SettingError):
        config.replace(lr=-1)
    with pytest.raises(FrozenInstanceError):
        config.lr = 1.0  # type: ignore[misc]


def test_every_augmentation_can_be_chosen() -> None:
    assert get_args(TrainConfig.settings()["augment"].kind) == AUGMENTS


def test_config_survives_a_file() -> None:
    config = TrainConfig(schedule="step", milestones=(10, 20), ema=0.99)
    assert TrainConfig(**config.to_json()) == config


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_valid_and_says_what_it_is(name: str) -> None:
    recipe = RECIPES[name]
    config = recipe()
    assert "Hardware:" in (recipe.__doc__ or "")
    assert learning_rate(config, 0, 100) > 0


def test_the_papers_schedules() -> None:
    def curve(name: str) -> list[float]:
        config = RECIPES[name]()
        return [learning_rate(config, epoch, 1) for epoch in range(config.epochs)]

    residual = curve("cifar_paper_resnet")
    assert (residual[81], residual[82], residual[122], residual[123]) == pytest.approx((0.1, 0.01, 0.01, 0.001))
    bases = curve("cifar_filter_bases")
    assert (len(bases), bases[149], bases[150], bases[225]) == pytest.approx((300, 0.1, 0.01, 0.001))
    tied = curve("imagenet_tbc")
    assert (len(tied), tied[29], tied[30], tied[60], tied[90]) == pytest.approx((100, 0.1, 0.01, 1e-3, 1e-4))
    assert len(curve("imagenet_spconv")) == 90


def test_a_scaled_recipe_keeps_its_shape() -> None:
    full = RECIPES["cifar_paper_resnet"]()
    short = full.scaled(0.25)
    assert short.epochs == 41
    assert short.milestone_epochs() == pytest.approx((20.5, 30.75))
    assert full.scaled(1).milestone_epochs() == pytest.approx(full.milestone_epochs())
    assert RECIPES["cifar_shardnet"]().scaled(0.1).patience == 1
    assert RECIPES["cifar_filter_bases"]().scaled(0.1).milestones == (0.5, 0.75)
    assert full.scaled(0.001).epochs == 1
    behind = TrainConfig(epochs=10, schedule="step", milestones=(5, 10, 15)).scaled(0.5)
    assert behind.milestone_epochs() == (2.5, 5, 7.5), "the rate falls where it fell in the long run"
    for bad in (0, -1, 1.5, True, "half"):
        with pytest.raises(SettingError, match="must be a number above 0 and at most 1"):
            full.scaled(bad)
