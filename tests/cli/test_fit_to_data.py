"""``--data`` of ``leanconv convert``, and the images of ``--init fit`` in runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import leanconv as lc
from leanconv.data import LabelledImages, open_data
from leanconv.experiment import job as jobs
from leanconv.experiment.job import Job
from leanconv.train.prepared import some_batches, task_on


def test_convert_fits_to_outputs_on_training_images(call: Callable, tmp_path: Path) -> None:
    torch.manual_seed(0)
    data = open_data("digits")
    model = lc.create_model("resnet8", num_classes=10, in_chans=1).eval()
    images = next(some_batches(data.train, data, task_on(model, data), 128))
    lc.save(lc.reestimate_norms_(model, images), tmp_path / "dense")
    convert = ("convert", tmp_path / "dense", "--method", "grouped(groups=2)", "--exclude", "conv1")
    apart = {}
    for name, more in {"weights": (), "outputs": ("--data", "digits", "--images", "256", "--sequential")}.items():
        answer = call(*convert, "--out", tmp_path / name, *more)
        assert answer.code == 0 and f"fitted to the dense {name} and not trained" in answer.err
        assert ("fitting on 256 training images of digits" in answer.err) == (name == "outputs")
        with torch.no_grad():
            apart[name] = float((lc.load(tmp_path / name).eval()(images) - model(images)).norm())
    assert apart["outputs"] < apart["weights"]
    fresh = call(*convert, "--out", tmp_path / "fresh", "--init", "fresh", "--data", "digits")
    assert fresh.code == 2 and "data is for a fit" in fresh.err


@pytest.mark.parametrize("validation", [0.25, 0.0])
def test_a_run_fits_on_train_images_that_are_not_held_out(validation: float, monkeypatch: pytest.MonkeyPatch) -> None:
    data, seen = open_data("digits"), []
    fitted = jobs.fitted
    monkeypatch.setattr(jobs, "fitted", lambda *args: seen.extend(args[3]) or fitted(*args))
    monkeypatch.setattr(jobs, "FIT_IMAGES", 2000)
    settings = lc.TrainConfig(validation=validation, seed=3)
    job = Job("resnet8", lc.Grouped(2), data, settings, init="fit", keep_stem=True)
    job.build()
    pixels = {tuple(image.flatten().tolist()) for batch in seen for image in batch}
    train, held_out = data.split(validation, 3) if validation else (data.train, None)

    def as_fed(part: LabelledImages) -> set:
        task = lc.Task(data.mean, data.std, (8, 8))
        return {tuple(x.flatten().tolist()) for batch in some_batches(part, data, task, len(part)) for x in batch}

    assert pixels == as_fed(train)
    assert not pixels & as_fed(data.test) and (held_out is None or not pixels & as_fed(held_out))
    assert job.identity()["fit_images"] == 2000
    assert "fit_images" not in Job("resnet8", lc.Grouped(2), data, settings).identity()
    assert "fit_images" not in Job("resnet8", None, data, settings, init="fit").identity()
