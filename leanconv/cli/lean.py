"""``leanconv lean``: from a trained network or detector to a lean one under a budget."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from leanconv.budget.config import LeanConfig
from leanconv.cli import lean_flags as flags
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
    State,
    Target,
    TestSplit,
    Weights,
    Where,
)
from leanconv.cli.output import command_line, earlier_run, present, say
from leanconv.cli.task_flags import check_trained, given_task, with_task_flags
from leanconv.cli.train_flags import given_flags, with_flags
from leanconv.core.task_settings import TaskSettings


@with_task_flags
@partial(with_flags, LeanConfig)
def lean(
    target: Target,
    out: flags.Out,
    budgets: flags.Budgets = None,
    max_drop: flags.MaxDrop = None,
    data: Data = "digits",
    data_root: DataRoot = None,
    download: Download = False,
    on_bad: OnBad = "refuse",
    max_pixels: MaxPixels = None,
    test_split: TestSplit = None,
    methods: flags.Methods = None,
    where: Where = None,
    exclude: Exclude = None,
    include: Include = None,
    controls: flags.Controls = "uniform,random",
    pyramid: flags.Pyramid = False,
    pretrained: Pretrained = False,
    weights: Weights = None,
    state: State = None,
    recipe: flags.Recipe = None,
    resume: flags.Resume = False,
    as_json: Json = False,
    **settings: Any,
) -> None:
    """Make the trained network TARGET lean within a budget, and keep its accuracy.

    TARGET is a folder, or a name with your checkpoint: --weights, and --classes and --like for what a checkpoint does not hold.
    Each layer is tried with every method; the choice that changes the network's output least is converted, trained, measured
    and exported. DIR holds each stage, the lean network, summary.json and report.html. If TARGET is a run of leanconv detect
    train, the backbone of the detector becomes lean, and --data is the folder of its photos.
    """
    from leanconv.detect.files import holds_detector

    budget = flags.budget_of(budgets, max_drop, settings.get("minimise"))
    opening: dict[str, Any] = {"pretrained": pretrained, "weights": weights, "state": state}
    task = given_task({name: settings.pop(name, None) for name in TaskSettings.settings()})
    common: dict[str, Any] = {
        "methods": flags.methods_of(methods), "where": where or (), "exclude": exclude or (), "include": include,
        "resume": resume, "controls": [] if controls in ("", "none") else controls.split(","),
        "command": command_line(portable=True), **given_flags(LeanConfig, settings),
    }  # fmt: skip
    try:
        if holds_detector(target):
            from leanconv.cli.detect.flags import open_photos
            from leanconv.detect import lean as lean_detector

            own = {"data_root": data_root, "download": download, "test_split": test_split, **opening, **task}
            flags.refuse_for_detector(target, own)
            photos = open_photos(Path(data), on_bad, max_pixels=max_pixels)
            present(lean_detector(target, photos, budget, out, recipe, pyramid=pyramid, **common), None, as_json)
            return
        from leanconv.budget.search import lean as search
        from leanconv.cli.images import open_images

        flags.refuse_for_classifier(target, pyramid)
        ended = earlier_run(out, resume, "rows")
        check_trained(target, "--weights, --pretrained or ", weights, pretrained)
        images = open_images(data, data_root, download, on_bad, max_pixels, test_split, networks=(target,))
        found = search(target, images, budget, out, recipe, task=TaskSettings(**task), **opening, **common)
        ended()
        present(found, None, as_json)
    except KeyboardInterrupt:
        say(f"interrupted; add --resume to continue the search in {out}")
        raise
