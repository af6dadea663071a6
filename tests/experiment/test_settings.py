"""A configuration file in Python: its recipe and its settings count, and a key that means nothing is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch

import leanconv as lc
from leanconv.budget.classifier import recipe_of
from leanconv.budget.config import LeanConfig
from leanconv.core.errors import SettingError
from leanconv.core.task_settings import TaskSettings
from leanconv.data import open_data
from leanconv.detect.budget.setup import recipe_for
from leanconv.experiment.job import Job
from leanconv.experiment.settings import REQUESTED, settings_for
from leanconv.experiment.teacher import Teacher
from leanconv.files.weights import Weights
from leanconv.train import TrainConfig
from leanconv.train.recipes import cifar_speed


def test_its_recipe_counts_and_its_settings_replace_it(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("recipe: cifar_speed\nlr: 0.125\nrequest:\n  target: resnet20\n  mean: '0.5,0.5,0.5'\n")
    data = open_data("digits")
    speed = cifar_speed().replace(lr=0.125, epochs=3)
    assert settings_for(file, data, {"epochs": 3}, "cpu") == settings_for(speed, data, {}, "cpu")
    assert recipe_of("resnet20", data, file, LeanConfig())[0].lr == 0.125


def test_the_validation_part_of_a_run_stays_its_own_with_other_settings(tmp_path: Path) -> None:
    data, other = open_data("digits"), TrainConfig(epochs=7, validation=0.3, seed=1)
    for run, expected in (("seed: 5\nvalidation: 0.2", (5, 0.2)), ("seed: 5\nvalidation: 0.0", (5, 0.4))):
        (tmp_path / "config.yaml").write_text(run)
        for config in (None, other, "quick_digits"):
            split, recovery = recipe_of(str(tmp_path), data, config, LeanConfig(seed=3, validation=0.4))
            assert recovery is not None
            assert (split.seed, split.validation) == (recovery.seed, recovery.validation) == expected
            assert (split.epochs == 7) == (config is other)
    split, _ = recipe_of("resnet20", data, other, LeanConfig(seed=3, validation=0.4))
    assert (split.seed, split.validation) == (3, 0.3), "a network without a run"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("epoch: 2", "epoch=2: no such setting; did you mean epochs?"),
        ("weight_decya: 0.1", "weight_decya=0.1: no such setting; did you mean weight_decay?"),
        ("request: {weight: 0.1}", "weight=0.1: no such setting; did you mean weights?"),
        ("recipe: cifar_sped", "'cifar_sped' does not exist; there are quick_digits"),
        ("recipe: c.yaml", "recipe='c.yaml' must be the name of a recipe"),
        ("recipe: [cifar_speed]", "recipe=['cifar_speed'] must be the name of a recipe"),
    ],
)
def test_a_mistake_in_it_is_refused(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(SettingError) as caught:
        settings_for(tmp_path / "config.yaml", open_data("digits"), {})
    assert words in str(caught.value)
    with pytest.raises(SettingError) as caught:  # the settings of the network's own run
        recipe_of(str(tmp_path), open_data("digits"), None, LeanConfig())
    assert words in str(caught.value)


class Sizes(torch.nn.Module):
    """A detector's sizes of photos."""

    def __init__(self) -> None:
        super().__init__()
        self.transform = torch.nn.Identity()
        self.transform.min_size, self.transform.max_size = (40,), 64  # type: ignore[assignment]


def test_a_file_for_a_detector(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("recipe: coco_1x\nlr: 0.25\ndata: photos\nclasses: [cat]\n")
    for target, config in ((lambda: Sizes(), file), (str(tmp_path), None)):
        found = recipe_for(cast(Any, target), Sizes(), config)
        assert (found.epochs, found.milestones, found.lr) == (12, (8, 11), 0.25)
    file.write_text("momentun: 0.5\n")
    with pytest.raises(SettingError, match=r"momentun=0\.5: no such setting; did you mean momentum\?"):
        recipe_for(str(tmp_path), Sizes(), None)


def test_what_a_run_notes_of_itself_is_known(tmp_path: Path) -> None:
    dense, weights = lc.create_model("resnet8", num_classes=10, in_chans=1), tmp_path / "w.safetensors"
    weights.write_bytes(b"")
    job = Job(
        "resnet8", None, open_data("digits"), TrainConfig(), include="linear", align=8, teacher=Teacher(dense, "runs/a", "x"),
        weights=Weights(weights, None, "x"), task=TaskSettings(classes=("a",), mean=(0.5,), std=(0.5,)),
    )  # fmt: skip
    for data in (
        job.data,
        replace(job.data, origin={"data": "p", "on_bad": "skip", "max_pixels": 9, "test_split": 0.5}),
    ):
        request = replace(job, data=data).request(dense)
        assert request is not None and {*request} <= {*REQUESTED}
