from __future__ import annotations

import math

import pytest
import torch
from torch.optim.lr_scheduler import OneCycleLR

from leanconv.train import TrainConfig
from leanconv.train.schedules import learning_rate

STEPS = 7  # an epoch


def curve(config: TrainConfig) -> list[float]:
    return [learning_rate(config, step, STEPS) for step in range(config.epochs * STEPS)]


def test_constant() -> None:
    assert curve(TrainConfig(epochs=3, schedule="constant", lr=0.3)) == [0.3] * 21


def test_cosine() -> None:
    expected = [0.2 * (1 + math.cos(math.pi * step / 70)) for step in range(70)]
    assert curve(TrainConfig(epochs=10, schedule="cosine", lr=0.4)) == pytest.approx(expected)


@pytest.mark.parametrize(("schedule", "strategy"), [("onecycle", "cos"), ("triangle", "linear")])
def test_one_cycle_and_triangle_are_torchs(schedule: str, strategy: str) -> None:
    config = TrainConfig(epochs=10, schedule=schedule, lr=0.4, pct_start=0.25, div_factor=10, final_div_factor=100)
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    scheduler = OneCycleLR(
        optimizer, 0.4, total_steps=70, pct_start=0.25, div_factor=10, final_div_factor=100, cycle_momentum=False,
        anneal_strategy=strategy,
    )  # fmt: skip
    expected = []
    for _ in range(70):
        expected.append(scheduler.get_last_lr()[0])
        optimizer.step()
        if len(expected) < 70:
            scheduler.step()
    assert curve(config) == pytest.approx(expected)


def test_one_cycle_of_a_single_step() -> None:
    assert learning_rate(TrainConfig(epochs=1), 0, 1) > 0


@pytest.mark.parametrize("milestones", [(0.5, 0.8), (5, 8)])
def test_step_at_fractions_and_at_epochs(milestones: tuple[float, ...]) -> None:
    rates = curve(TrainConfig(epochs=10, schedule="step", lr=0.4, gamma=0.5, milestones=milestones))
    assert rates == pytest.approx([0.4] * 35 + [0.2] * 21 + [0.1] * 14)


@pytest.mark.parametrize("schedule", ["constant", "cosine", "step"])
def test_warmup_rises_to_lr(schedule: str) -> None:
    config = TrainConfig(epochs=10, schedule=schedule, lr=0.4, warmup_epochs=2)
    assert curve(config)[:14] == pytest.approx([0.4 * (step + 1) / 14 for step in range(14)])
    assert curve(config)[14] == pytest.approx(0.4)


def test_plateau_halves_after_patience() -> None:
    config = TrainConfig(epochs=9, schedule="plateau", lr=0.4, gamma=0.5, patience=1)

    def after(*losses: float) -> float:
        return learning_rate(config, len(losses) * STEPS, STEPS, losses)

    assert after() == 0.4
    assert after(3.0, 2.0, 2.5) == 0.4
    assert after(3.0, 2.0, 2.5, 2.2) == 0.2
    assert after(3.0, 2.0, 2.5, 2.2, 2.1, 2.3) == 0.1
    assert after(3.0, 2.0, 2.5, 1.5, 1.6) == 0.4
