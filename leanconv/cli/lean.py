"""``leanconv lean``: from a trained network or detector to a lean one under a budget."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from leanconv.budget.config import LeanConfig
from leanconv.budget.limits import Budget
from leanconv.cli.lean_flags import Budgets, Controls, MaxDrop, Methods, Out, Pyramid, Recipe, Resume
from leanconv.cli.options import (
    Data,
    DataRoot,
    Download,
    Exclude,
    Include,
    Json,
    MaxPixels,
    OnBad,
    Pretrained,
    Target,
    TestSplit,
    Where,
)
from leanconv.cli.output import command_line, present, say
from leanconv.cli.train_flags import given_flags, with_flags
from leanconv.core.errors import SettingError


def lean(
    target: Target,
    out: Out,
    budgets: Budgets = None,
    max_drop: MaxDrop = None,
    data: Data = "digits",
    data_root: DataRoot = None,
    download: Download = False,
    on_bad: OnBad = "refuse",
    max_pixels: MaxPixels = None,
    test_split: TestSplit = None,
    methods: Methods = None,
    where: Where = None,
    exclude: Exclude = None,
    include: Include = None,
    controls: Controls = "uniform,random",
    pyramid: Pyramid = False,
    pretrained: Pretrained = False,
    recipe: Recipe = None,
    resume: Resume = False,
    as_json: Json = False,
    **settings: Any,
) -> None:
    """Make the trained network TARGET lean within a budget, and keep its accuracy.

    Each layer is tried with every method; the choice that changes the network's output least is converted, trained, measured
    and exported. DIR holds each stage, the lean network, summary.json and report.html. If TARGET is a run of leanconv detect
    train, the backbone of the detector becomes lean, and --data is the folder of its photos.
    """
    from leanconv.detect.files import holds_detector

    budget = Budget.of(",".join([*(budgets or []), *([] if max_drop is None else [f"max_drop={max_drop}"])]))
    common: dict[str, Any] = {
        "methods": methods or (), "where": where or (), "exclude": exclude or (), "include": include, "resume": resume,
        "controls": [] if controls == "none" else controls.split(","), "command": command_line(portable=True),
        **given_flags(LeanConfig, settings),
    }  # fmt: skip
    try:
        if holds_detector(target):
            from leanconv.cli.detect.flags import open_photos
            from leanconv.detect import lean as lean_detector

            of_images = {
                "--data-root": data_root,
                "--download": download,
                "--test-split": test_split,
                "--pretrained": pretrained,
            }
            if unused := [flag for flag, value in of_images.items() if value]:
                raise SettingError(f"{target} holds a detector, and {unused[0]} is for classifiers; leave it out")
            photos = open_photos(Path(data), on_bad, max_pixels=max_pixels)
            present(lean_detector(target, photos, budget, out, recipe, pyramid=pyramid, **common), None, as_json)
            return
        from leanconv.budget.search import lean as search
        from leanconv.cli.images import open_images
        from leanconv.files.target import is_saved

        if pyramid:
            raise SettingError(f"--pyramid is for detectors, and {target} holds none; leave it out")
        own = target if is_saved(target) else None
        images = open_images(data, data_root, download, on_bad, max_pixels, test_split, run=own)
        present(search(target, images, budget, out, recipe, pretrained=pretrained, **common), None, as_json)
    except KeyboardInterrupt:
        say(f"interrupted; add --resume to continue the search in {out}")
        raise


lean = with_flags(LeanConfig, lean)
