"""Build, train, evaluate, draw and save detectors on dense and lean backbones."""

from __future__ import annotations

from typing import TYPE_CHECKING

from leanconv.core.lazy import lazy

if TYPE_CHECKING:
    from leanconv.detect.backbone import PyramidBackbone, feature_layers
    from leanconv.detect.budget.result import LeanDetector
    from leanconv.detect.budget.search import lean
    from leanconv.detect.cascade import CascadeRoIHeads
    from leanconv.detect.config import DetectConfig
    from leanconv.detect.data import DetectionData, Instance, Photo, open_detection, write_shapes
    from leanconv.detect.detector import DETECTORS, create_detector
    from leanconv.detect.drawing import predict
    from leanconv.detect.files import load_detector, save_detector
    from leanconv.detect.job import build
    from leanconv.detect.occluded import occlusion, occlusion_of_boxes, occlusion_of_masks
    from leanconv.detect.scoring import Evaluation, evaluate_detector
    from leanconv.detect.train import fit_detector
    from leanconv.detect.verbs import evaluate, fit

__all__ = [
    "DETECTORS",
    "CascadeRoIHeads",
    "DetectConfig",
    "DetectionData",
    "Evaluation",
    "Instance",
    "LeanDetector",
    "Photo",
    "PyramidBackbone",
    "build",
    "create_detector",
    "evaluate",
    "evaluate_detector",
    "feature_layers",
    "fit",
    "fit_detector",
    "lean",
    "load_detector",
    "occlusion",
    "occlusion_of_boxes",
    "occlusion_of_masks",
    "open_detection",
    "predict",
    "save_detector",
    "write_shapes",
]

_HOME = {
    "DETECTORS": "detector",
    "CascadeRoIHeads": "cascade",
    "DetectConfig": "config",
    "DetectionData": "data",
    "Evaluation": "scoring",
    "Instance": "data",
    "LeanDetector": "budget.result",
    "Photo": "data",
    "PyramidBackbone": "backbone",
    "build": "job",
    "create_detector": "detector",
    "evaluate": "verbs",
    "evaluate_detector": "scoring",
    "feature_layers": "backbone",
    "fit": "verbs",
    "fit_detector": "train",
    "lean": "budget.search",
    "load_detector": "files",
    "occlusion": "occluded",
    "occlusion_of_boxes": "occluded",
    "occlusion_of_masks": "occluded",
    "open_detection": "data",
    "predict": "drawing",
    "save_detector": "files",
    "write_shapes": "data",
}
__getattr__, __dir__ = lazy(__name__, _HOME)  # the settings are read for --help, which should not wait for torch
