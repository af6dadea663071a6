"""Detectors on dense and lean backbones: built, trained, evaluated under occlusion, drawn and saved."""

from __future__ import annotations

from typing import TYPE_CHECKING

from leanconv.core.lazy import lazy

if TYPE_CHECKING:
    from leanconv.detect.backbone import PyramidBackbone, feature_layers
    from leanconv.detect.build import DETECTORS, create_detector
    from leanconv.detect.cascade import CascadeRoIHeads
    from leanconv.detect.config import DetectConfig
    from leanconv.detect.data import DetectionData, Instance, Photo, open_detection, write_shapes
    from leanconv.detect.evaluate import Evaluation, evaluate_detector
    from leanconv.detect.files import load_detector, save_detector
    from leanconv.detect.occluded import occlusion, occlusion_of_boxes, occlusion_of_masks
    from leanconv.detect.train import fit_detector

__all__ = [
    "DETECTORS",
    "CascadeRoIHeads",
    "DetectConfig",
    "DetectionData",
    "Evaluation",
    "Instance",
    "Photo",
    "PyramidBackbone",
    "create_detector",
    "evaluate_detector",
    "feature_layers",
    "fit_detector",
    "load_detector",
    "occlusion",
    "occlusion_of_boxes",
    "occlusion_of_masks",
    "open_detection",
    "save_detector",
    "write_shapes",
]

_HOME = {
    "DETECTORS": "build",
    "CascadeRoIHeads": "cascade",
    "DetectConfig": "config",
    "DetectionData": "data",
    "Evaluation": "evaluate",
    "Instance": "data",
    "Photo": "data",
    "PyramidBackbone": "backbone",
    "create_detector": "build",
    "evaluate_detector": "evaluate",
    "feature_layers": "backbone",
    "fit_detector": "train",
    "load_detector": "files",
    "occlusion": "occluded",
    "occlusion_of_boxes": "occluded",
    "occlusion_of_masks": "occluded",
    "open_detection": "data",
    "save_detector": "files",
    "write_shapes": "data",
}
__getattr__, __dir__ = lazy(__name__, _HOME)  # the settings are read for --help, which should not wait for torch
