"""What a run held out is never trained on before it is scored, whichever verb takes the run's folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import leanconv as lc
from leanconv.core.errors import DataError, SettingError
from leanconv.data import open_data
from tests.cli.test_data_sets import folders

from .conftest import QUICK, Net, striped

RUN: dict[str, Any] = QUICK | {"epochs": 1, "batch_size": 4, "config": "quick_digits"}
OTHER = r"\(test_split=\) 0\.5: the run in .*run held out 0\.3 .* test on those: --test-split 0\.3"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return folders(tmp_path / "photos", "cat", "dog", parts=("",), count=10)


@pytest.fixture
def run(tmp_path: Path, photos: Path) -> Path:
    lc.fit("resnet8(width=4)", photos, test_split=0.3, out=tmp_path / "run", **RUN)
    return tmp_path / "run"


def test_each_verb_keeps_it(run: Path, photos: Path) -> None:
    budget: dict[str, Any] = {"budget": "params=0.9", "progress": False, "cache": None}
    for refused in (
        lambda data, **split: lc.evaluate(run, data, **split),
        lambda data, **split: lc.fit(str(run), data, **split, **RUN),
        lambda data, **split: lc.fit("resnet8(width=4)", data, teacher=run, **split, **RUN),
        lambda data, **split: lc.compare({"a": "resnet8(width=4)", "b": run}, data, **split, **RUN),
        lambda data, **split: lc.lean(run, data, **split, **budget),
    ):
        with pytest.raises(SettingError, match=OTHER):
            refused(photos, test_split=0.5)
        with pytest.raises(SettingError, match=OTHER):
            refused(open_data(photos, test_split=0.5))


def test_it_is_the_test_part_without_a_word(run: Path, photos: Path) -> None:
    assert lc.evaluate(run, photos).n == 6
    taught = lc.fit("resnet8(width=4)", photos, teacher=run, **RUN)
    assert taught.scores.n == 6 and taught.job.data.held_out == open_data(photos, test_split=0.3).held_out
    with pytest.raises(DataError, match="holds out a test part"):
        lc.fit("resnet8(width=4)", photos, **RUN)


def test_other_images_are_divided_as_one_likes(run: Path, tmp_path: Path) -> None:
    others = folders(tmp_path / "others", "cat", "dog", parts=("",), count=8)
    assert lc.evaluate(run, others, test_split=0.5).n == 8
    with pytest.raises(DataError, match="its images are not those that the run in"):
        lc.evaluate(run, others)


def test_a_pair_of_tensors_too(tmp_path: Path) -> None:
    lc.fit("resnet8(width=4)", striped(60), test_split=0.5, out=tmp_path, **RUN)
    assert lc.evaluate(tmp_path, striped(60), test_split=0.5).n == 30
    with pytest.raises(SettingError, match=r"0\.2: the run in .* --test-split 0\.5"):
        lc.evaluate(tmp_path, striped(60))
    assert lc.evaluate(Net(), striped(60)).n == 12
