"""Detectors on dense and lean backbones, and how much objects overlap."""

from __future__ import annotations

from leanconv.detect.backbone import PyramidBackbone, feature_layers
from leanconv.detect.build import DETECTORS, create_detector, small_anchors
from leanconv.detect.cascade import CascadeRoIHeads
from leanconv.detect.occlusion import occlusion_of_boxes, occlusion_of_masks

__all__ = [
    "DETECTORS",
    "CascadeRoIHeads",
    "PyramidBackbone",
    "create_detector",
    "feature_layers",
    "occlusion_of_boxes",
    "occlusion_of_masks",
    "small_anchors",
]
