"""Read photos with labelled objects: COCO JSON, Pascal VOC, Cityscapes."""

from __future__ import annotations

from leanconv.data.problems import Problems
from leanconv.detect.data.records import DetectionData, Instance, Photo
from leanconv.detect.data.shapes import write_shapes
from leanconv.detect.data.sources import open_detection

__all__ = ["DetectionData", "Instance", "Photo", "Problems", "open_detection", "write_shapes"]
