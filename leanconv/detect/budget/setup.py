"""The search for a lean detector: scored by its average precision, trained with its dense detector as teacher."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from leanconv.budget.classifier import title_of
from leanconv.budget.config import LeanConfig
from leanconv.budget.limits import Budget
from leanconv.budget.ordinary import NARROWER, ORDINARY
from leanconv.budget.setup import Control, Scored, Setup, recovery_of
from leanconv.budget.space import Space
from leanconv.conversion.apply import plan_of
from leanconv.core.copying import copied, refuse_meta
from leanconv.core.errors import SettingError
from leanconv.core.layout import to_channels_last
from leanconv.core.machine import device_of
from leanconv.core.meta import InputSize
from leanconv.core.method import Method
from leanconv.core.modes import in_eval
from leanconv.detect.budget.photos import calibration_photos, input_size_of, usual_size
from leanconv.detect.budget.recovery import DetectorRecovery, recover
from leanconv.detect.classes import for_detector
from leanconv.detect.config import DetectConfig
from leanconv.detect.data import DetectionData, Photo
from leanconv.detect.detector import describe_detector
from leanconv.detect.feed import read_image
from leanconv.detect.files import load_detector, save_detector
from leanconv.detect.job import check_part, counts, part_to_score
from leanconv.detect.maps import PYRAMID, clear_head_, maps_of, with_maps
from leanconv.detect.recipes import recipe_of
from leanconv.detect.scoring import evaluate_detector
from leanconv.detect.train import check_fits
from leanconv.experiment.settings import check_config, is_file, settings_in
from leanconv.files.target import Network, built, network_name
from leanconv.timing.latency import threads_set, time_interleaved

SECONDS = 10.0  # for the times of all detectors together


@dataclass(frozen=True)
class DetectorSetup(Setup):
    """The search for a lean detector. The searched module computes the feature maps of its backbone or of its pyramid.

    Args:
        detector: the dense detector in eval mode; a copy of the user's.
        pyramid: the pyramid is searched too.
        data: the photos, with the detector's classes.
        recipe: the settings of the recovery; None for no recovery.
        recover: trains a detector after its conversion.
        device: where detectors are trained and evaluated.
    """

    kind: ClassVar[str] = "lean_detector"

    detector: nn.Module
    pyramid: bool
    data: DetectionData
    recipe: DetectConfig | None
    recover: DetectorRecovery
    device: str

    @cached_property
    def _input_size(self) -> InputSize:
        return input_size_of(self.detector, self.data.part("train"))

    @property
    def input_size(self) -> InputSize:
        return self._input_size

    @property
    def dense(self) -> nn.Module:
        return self.detector

    @cached_property
    def space(self) -> Space:
        """The candidates, without layers of the backbone and of the pyramid that share weights: a file holds a plan for each."""
        found = super().space
        return found.only(one.key for one in found.lean if len({_in_pyramid(site.name) for site in one.sites}) == 1)

    @property
    def photos(self) -> Sequence[Photo]:
        """The photos of the quality."""
        return self.data.part(part_to_score(self.data))

    def whole(self, part: nn.Module) -> nn.Module:
        return with_maps(self.detector, part)

    def part(self, whole: nn.Module) -> nn.Module:
        return maps_of(whole, self.pyramid)

    def calibration(self, count: int) -> Tensor:
        _, *size = self.input_size
        return calibration_photos(
            self.detector, self.data.part("train"), count, (size[0], size[1]), self.config.seed
        )  # fmt: skip

    def usual(self, network: nn.Module) -> Scored:
        """The average precision of boxes in percent; all others too, also by occlusion ratio."""
        by = "masks" if self.data.has_masks and self.data.masks_overlap else "boxes"
        network.to(device_of(self.device))
        found = evaluate_detector(network, self.photos, by=by)  # type: ignore[arg-type]
        network.cpu()
        return Scored(found.metrics["bbox"]["AP"] or 0.0, found.to_json() | {"by": by})

    def train_(self, network: nn.Module, folder: Path, *, scratch: bool, progress: bool) -> int:
        assert not scratch  # `prepared` refuses the control that is trained from scratch
        if self.recipe is None:
            return 0
        recipe = self.recipe.replace(threads=self.config.train_threads)
        self.recover(
            network, self.detector, self.data, recipe, folder, images=torch.cat(self.batches), pyramid=self.pyramid,
            device=self.device, progress=progress,
        )  # fmt: skip
        return self.recipe.epochs

    @property
    def trains(self) -> bool:
        return self.recipe is not None

    @property
    def effort(self) -> str:
        raise NotImplementedError

    def finals(
        self, networks: Mapping[str, nn.Module], more: Mapping[str, Mapping[str, Any]]
    ) -> dict[str, dict[str, Any]]:
        """Parameters and time of the whole detectors, and average precision before and after the recovery."""
        size = usual_size(self.photos)
        photo = next(one for one in self.photos if (one.height, one.width) == size)
        image = [read_image(photo)] * self.config.batch
        with threads_set(self.config.threads), torch.inference_mode():
            calls = {name: lambda network=network: network(image) for name, network in networks.items()}
            times = {entry.name: entry for entry in time_interleaved(calls, seconds=SECONDS)}
        found = {}
        for name, network in networks.items():
            after = more[name].get("after") or self.usual(network).more  # with a metric, nothing is evaluated before
            found[name] = {
                "label": name,
                "counts": counts(network),
                "detector_ms": times[name].median_ms,
                "detector_ratio": times[name].ratio,
                "before": more[name].get("before") or None,
                "val": after,
            }
        return found

    def save(self, network: nn.Module, folder: Path) -> None:
        save_detector(network, folder)

    def load(self, folder: Path) -> nn.Module:
        return load_detector(folder, copied(self.detector.get_submodule("backbone.network")))

    def exported(self, network: nn.Module, folder: Path, to: str) -> dict[str, Any]:
        raise NotImplementedError  # `prepared` refuses runtimes that read a file

    @property
    def functions(self) -> dict[str, object]:
        return super().functions | {"recover": None if self.recover is recover else self.recover}

    def identity(self) -> dict[str, Any]:
        recipe = None if self.recipe is None else self.recipe.to_json()
        more = {"part": part_to_score(self.data), "photos": len(self.photos), "input_size": list(self.input_size)}
        return super().identity() | {"data": self.data.facts() | more, "recipe": recipe, "pyramid": self.pyramid}


def _in_pyramid(name: str) -> bool:
    return name.startswith(f"{PYRAMID}.")


def detector_of(target: Network) -> nn.Module:
    """The dense detector of a target, a copy in eval mode on the CPU.

    Raises:
        SettingError: it is lean already, or `create_detector` did not build it.
    """
    found = load_detector(Path(target).expanduser()) if isinstance(target, str) else built(target).cpu()
    refuse_meta(found)
    describe_detector(found)
    if any(plan_of(found.get_submodule(name)) is not None for name in ("backbone.network", "backbone.fpn")):
        raise SettingError(f"{network_name(target)} is lean already; give the trained dense detector")
    clear_head_(found)
    return in_eval(found)


def recipe_for(target: Network, detector: nn.Module, config: DetectConfig | str | Path | None) -> DetectConfig:
    """The settings of the dense detector's training: those given, those of its run, or the usual ones; at its photo sizes.

    Args:
        target, detector: the dense detector.
        config: settings, the name of a recipe, or a file of settings.
    """
    check_config(config, DetectConfig)
    own = Path(target).expanduser() / "config.yaml" if isinstance(target, str) else None
    if isinstance(config, DetectConfig):
        found = config
    elif is_file(config):
        found = _read(config)
    elif config is None and own is not None and own.exists():
        return _read(own)
    else:
        found = recipe_of(None if config is None else str(config))
    sizes: Any = detector.get_submodule("transform")
    return found.replace(min_size=tuple(sizes.min_size), max_size=sizes.max_size)


def _read(file: str | Path) -> DetectConfig:
    """The settings in a file."""
    recipe, settings = settings_in(file, DetectConfig)
    return recipe_of(recipe).replace(**settings)


def prepared(
    target: Network, data: DetectionData, budget: Budget, config: LeanConfig, recipe: DetectConfig | str | Path | None,
    *, pyramid: bool, methods: Sequence[str | Method], controls: dict[str, Control | None], **more: Any,
) -> DetectorSetup:  # fmt: skip
    """The setup of a search.

    Raises:
        SettingError: the detector does not fit the photos or is lean already, or a setting or control is only for classifiers.
        DataError: there is no labelled photo.
    """
    _check(config, pyramid, controls)
    detector = detector_of(target)
    check_fits(detector, data)
    data = for_detector(detector, data, whole=True)
    data.part("train")
    check_part(data)
    recovery = recovery_of(recipe_for(target, detector, recipe), config.recovery_epochs)
    if pyramid:
        config = config.replace(narrowed=0)  # channels of a pyramid cannot be removed
    teacher = to_channels_last(cast(nn.Module, maps_of(copied(detector), pyramid)))
    return DetectorSetup(
        name=title_of(target), teacher=teacher, start=teacher, detector=detector, pyramid=pyramid, data=data, budget=budget,
        config=config, recipe=recovery, methods=tuple(methods), controls=controls, **more,
    )  # fmt: skip


def _check(config: LeanConfig, pyramid: bool, controls: Mapping[str, Control | None]) -> None:
    """Raise SettingError for what only a search for a classifier can do."""
    if config.runtime != "eager":
        raise SettingError(
            f"runtime={config.runtime!r} is for classifiers: leanconv neither compiles nor exports detectors; take eager"
        )
    if config.validation != LeanConfig().validation:
        raise SettingError(
            f"validation={config.validation:g} is for classifiers; detectors are evaluated on the val part of the data"
        )
    built_in = [name for name, control in controls.items() if control is None]
    if NARROWER in built_in:
        raise SettingError(
            f"controls={NARROWER!r} is for classifiers; train a detector on a narrower backbone with `leanconv detect train`"
        )
    if pyramid and (pruned := [name for name in built_in if name in ORDINARY]):
        raise SettingError(
            f"controls={pruned[0]!r} removes channels, and those of a pyramid cannot be removed; leave the control or the "
            "pyramid out"
        )
