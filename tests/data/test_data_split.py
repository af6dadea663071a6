"""The validation part: of every class, always the same, never of the test part."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from leanconv.core.errors import SettingError
from leanconv.data import FileImages, TensorImages, open_data
from leanconv.data.split import stratified

LABELS = torch.tensor([0] * 100 + [1] * 31 + [2] * 2 + [3]).roll(17)


@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.5, 0.99])
def test_each_class_gives_its_share_and_keeps_one(fraction: float) -> None:
    kept, held = stratified(LABELS, fraction, seed=3)
    assert torch.cat([kept, held]).sort().values.tolist() == list(range(len(LABELS)))
    counts = torch.bincount(LABELS[held], minlength=4).tolist()
    assert counts == [min(max(round(fraction * n), 1), n - 1) for n in (100, 31, 2, 1)]


def test_seeds_decide_alone() -> None:
    first, again, other = (stratified(LABELS, 0.2, seed)[1].tolist() for seed in (0, 0, 1))
    torch.manual_seed(5)
    assert first == again == stratified(LABELS, 0.2, 0)[1].tolist()
    assert first != other


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 1.5, float("nan")])
def test_fractions_out_of_range(fraction: float) -> None:
    with pytest.raises(SettingError, match=r"fraction=.* must lie between 0 and 1; 0\.1 holds out a tenth"):
        stratified(LABELS, fraction)


def test_classes_of_one_image_cannot_be_split() -> None:
    with pytest.raises(SettingError, match="holds out nothing"):
        stratified(torch.arange(3), 0.5)


def test_parts_hold_the_images_of_train_only() -> None:
    data = open_data("digits")
    train, validation = data.split(0.1)
    assert isinstance(train, TensorImages) and isinstance(validation, TensorImages)
    assert isinstance(data.train, TensorImages)
    both = torch.cat([train.images, validation.images]).flatten(1).tolist()
    assert sorted(both) == sorted(data.train.images.flatten(1).tolist())
    assert len(validation) == pytest.approx(144, abs=5)


def test_parts_of_files_decode_the_right_ones(tmp_path: Path, build: SimpleNamespace) -> None:
    build.class_set(tmp_path)
    build.write_images(tmp_path / "train" / "dog", 3, first=30, height=5)
    data = open_data(tmp_path)
    kept, held = stratified(data.train.labels, 0.4, 1)
    train, validation = data.split(0.4, 1)
    assert isinstance(train, FileImages) and isinstance(validation, FileImages)
    for part, rows in ((train, kept.tolist()), (validation, held.tolist())):
        for index, row in enumerate(rows):
            assert torch.equal(part[index][0], data.train[row][0])
            assert part[index][1] == data.train[row][1]
    again = validation.subset(torch.tensor([1]))
    assert torch.equal(again[0][0], validation[1][0])
