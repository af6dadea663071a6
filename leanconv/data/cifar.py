"""CIFAR-10 and CIFAR-100 in torchvision's folder layout."""

from __future__ import annotations

from pathlib import Path

import torch

from leanconv.core.errors import DataError
from leanconv.data.images import ImageData, TensorImages

NAMES = ("cifar10", "cifar100")


def cifar(name: str, root: str | Path = "data", download: bool = False) -> ImageData:
    """The 50,000 training and 10,000 test images of CIFAR, 32x32 pixels each.

    The files are pickles, so torchvision compares each file with its published md5 before a file is opened.

    Args:
        name: "cifar10" or "cifar100".
        root: the folder that contains torchvision's ``cifar-10-batches-py`` or ``cifar-100-python``.
        download: fetch the files if they are missing.

    Raises:
        DataError: the folder is missing, a file differs from the published one, or the download failed.
    """
    from torchvision.datasets import CIFAR10, CIFAR100

    source = {"cifar10": CIFAR10, "cifar100": CIFAR100}[name]
    folder = Path(root) / source.base_folder
    if not download and not folder.is_dir():
        raise DataError(f"{folder}: no such folder; add --download (download=True) to fetch {name} into it")
    parts = []
    try:
        for train in (True, False):
            part = source(root, train=train, download=download)
            images = torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous()
            parts.append(TensorImages(images, torch.tensor(part.targets)))
    except DataError:
        raise
    except Exception as error:  # torchvision: RuntimeError on a bad file, URLError and OSError from the network
        cause = "the download failed" if download else "a file is missing or differs from the published md5"
        detail = f" ({' '.join(str(error).split())})" if download else ""
        way_out = "try again" if download else "delete the folder and add --download (download=True)"
        raise DataError(f"{folder}: {cause}{detail}; {way_out}") from error
    return ImageData.of(name, tuple(part.classes), *parts)
