"""Build, train, evaluate, draw and save detectors on dense and lean backbones."""

from __future__ import annotations

from leanconv.detect.backbone import PyramidBackbone, feature_layers
from leanconv.detect.build import DETECTORS, create_detector
from leanconv.detect.cascade import CascadeRoIHeads
from leanconv.detect.config import DetectConfig
from leanconv.detect.data import DetectionData, Instance, Photo, open_detection, write_shapes
from leanconv.detect.evaluate import Evaluation, evaluate_detector
from leanconv.detect.files import load_detector, save_detector
from leanconv.detect.occlusion import occlusion, occlusion_of_boxes, occlusion_of_masks
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
