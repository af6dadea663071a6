"""Labelled images (the embedded digits, CIFAR, parquet files and folders), and batches of them for training and testing."""

from __future__ import annotations

from leanconv.data.images import FileImages, ImageData, LabelledImages, TensorImages
from leanconv.data.loader import Loader, make_loader
from leanconv.data.sources import NAMES, describe, open_data
from leanconv.data.transforms import AUGMENTS

__all__ = [
    "AUGMENTS",
    "NAMES",
    "FileImages",
    "ImageData",
    "LabelledImages",
    "Loader",
    "TensorImages",
    "describe",
    "make_loader",
    "open_data",
]
