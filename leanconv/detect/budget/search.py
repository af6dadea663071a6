"""From a trained detector to a lean detector under a budget, with one call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from leanconv.budget.config import LeanConfig
from leanconv.budget.controls import RANDOM, UNIFORM
from leanconv.budget.limits import Budget
from leanconv.budget.parts import Metric
from leanconv.budget.search import check_functions, checked_methods, named_controls, searched
from leanconv.budget.setup import Control
from leanconv.budget.times import Cache
from leanconv.conversion.plan import Include, Where
from leanconv.core.method import Method
from leanconv.core.settings import several
from leanconv.detect.budget.recovery import DetectorRecovery, recover
from leanconv.detect.budget.result import LeanDetector
from leanconv.detect.budget.setup import prepared
from leanconv.detect.config import DetectConfig
from leanconv.detect.data import DetectionData, open_detection
from leanconv.experiment.events import Progress
from leanconv.files.target import Network


def lean(
    detector: Network,
    data: DetectionData | str | Path,
    budget: Budget | str | Mapping[str, Any],
    out: str | Path | None = None,
    config: DetectConfig | str | Path | None = None,
    *,
    pyramid: bool = False,
    methods: str | Method | Sequence[str | Method] = (),
    where: Where = (),
    exclude: Where = (),
    include: Include | None = None,
    metric: Metric | None = None,
    controls: str | Sequence[str] | Mapping[str, Control | None] = (UNIFORM, RANDOM),
    recover: DetectorRecovery = recover,
    device: str = "auto",
    resume: bool = False,
    progress: Progress = True,
    cache: Cache = "default",
    command: str = "leanconv.detect.lean(...)",
    **settings: Any,
) -> LeanDetector:
    """Make the backbone of a trained detector lean under a budget, and keep the detector's average precision.

    The search is that of `leanconv.lean`. A candidate's score is the relative squared error of the feature maps,
    ||lean - dense||^2 / ||dense - mean(dense)||^2, the mean over the maps, on photos of the train part without labels. All
    costs are those of the backbone (with `pyramid`: of backbone and pyramid) at the size at which the detector runs it for most
    photos.

    After the conversion, each lean block learns the output of its dense block, and then the whole detector is trained with the
    labels and with the dense detector's feature maps.

    Args:
        detector: the trained detector, which is not changed: built by `create_detector`, the folder of one, or a function that
            returns one.
        data: photos with labelled objects, or their folder. Scores and training use the train part. The val part gives the
            average precision in the result, on which a budget of max_drop decides.
        budget: as in `leanconv.lean`, for the backbone; "max_drop=1.0" is in points of the AP of boxes.
        out: the folder of the search: each stage, the lean detector, summary.json and report.html. None keeps no files.
        config: settings of the training after the conversion: a `DetectConfig`, the name of a recipe or a file; by default those
            of the detector's own run. It lasts a tenth of their epochs, with half of their learning rate.
        pyramid: make the layers of the feature pyramid lean too; their names begin with "fpn.".
        methods, where, exclude, include: as in `leanconv.lean`; names of layers are those in the network of the backbone.
        metric: a function of a detector in eval mode that returns a number, higher is better; by default the AP of boxes.
        controls: as in `leanconv.lean`: "uniform", "random", "pruned", "pruned_random", or a mapping with functions of the
            `Setup` that return a module in place of its `teacher`.
        recover: the training after the conversion, see `DetectorRecovery`.
        device: where detectors are trained and evaluated; times are measured on the CPU.
        resume, progress, cache, command: as in `leanconv.lean`.
        settings: settings of `leanconv.budget.LeanConfig`: images, batch, recovery_epochs, ...

    Returns:
        detectors, layers and frontier: `.network`, `.plan`, `.table()`, `.occlusion_table()`, `.report("page.html")`.

    Raises:
        SettingError: as `leanconv.lean`; or a setting is only for classifiers, or the detector does not fit the photos.
        CheckError: every detector loses more than max_drop.
        DataError: the photos cannot be used.
    """
    check_functions(metric, recover)
    asked, chosen = Budget.of(budget), LeanConfig(**settings)
    photos = data if isinstance(data, DetectionData) else open_detection(data)
    setup = prepared(
        detector, photos, asked, chosen, config, pyramid=pyramid, methods=checked_methods(methods),
        controls=named_controls(controls), where=several(where), exclude=several(exclude), include=include, metric=metric,
        recover=recover, device=device, cache=cache,
    )  # fmt: skip
    return searched(setup, LeanDetector, out, resume=resume, progress=progress, command=command)
