"""The scores that training and evaluation compute in the same way."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from leanconv.core.errors import SettingError
from leanconv.core.machine import precision_of
from leanconv.core.meta import own_dtype


@dataclass(frozen=True)
class Scores:
    """Accuracies in percent, mean cross-entropy (nats, no label smoothing) and the number of images.

    Args:
        top1_pct, top5_pct: accuracy in percent.
        loss: mean cross-entropy.
        n: the number of images.

    >>> Scores.of(torch.tensor([2.0, 3.0, 4.0, 4.0]))
    Scores(top1_pct=75.0, top5_pct=100.0, loss=0.5, n=4)
    """

    top1_pct: float
    top5_pct: float
    loss: float
    n: int

    @classmethod
    def of(cls, tally: Tensor) -> Scores:
        """The scores of the sums that `tally` gives."""
        loss, top1, top5, n = tally.tolist()
        return cls(100 * top1 / n, 100 * top5 / n, loss / n, int(n))


def tally(logits: Tensor, labels: Tensor) -> Tensor:
    """(summed cross-entropy, top-1 hits, top-5 hits, number of images), as one float tensor.

    Shape:
        logits: (N, classes); labels: (N,) -> (4,).

    >>> tally(torch.eye(3), torch.tensor([0, 1, 0]))[1:].tolist()
    [2.0, 3.0, 3.0]
    """
    logits = logits.float()
    loss = F.cross_entropy(logits, labels, reduction="sum")
    hits = logits.topk(min(5, logits.shape[1]), dim=1).indices == labels[:, None]
    return torch.stack([loss, hits[:, 0].sum(), hits.sum(), torch.full_like(loss, len(labels))])


def log_probabilities(model: nn.Module, images: Tensor) -> Tensor:
    """Log-probabilities, up to a constant, of each image; several crops are averaged as probabilities.

    Shape:
        images: (N, C, H, W), or (N, crops, C, H, W) -> (N, classes).

    >>> log_probabilities(nn.Flatten(), torch.zeros(2, 3, 1, 1)).shape
    torch.Size([2, 3])
    """
    images = images.to(own_dtype(model, images.dtype))
    if images.ndim == 4:
        return logits_of(model(images))
    crops = images.shape[1]
    each = logits_of(model(images.flatten(0, 1))).float().log_softmax(dim=1)
    return each.reshape(-1, crops, each.shape[1]).logsumexp(dim=1) - math.log(crops)


def logits_of(output: object, classes: int | None = None) -> Tensor:
    """The network's output, if a classifier may give it.

    Args:
        output: any output of a network.
        classes: the number of columns; None accepts any number.

    Raises:
        SettingError: the output is not a tensor (N, classes), or has another number of columns.

    >>> logits_of(torch.zeros(2, 3), classes=3).shape
    torch.Size([2, 3])
    """
    if not isinstance(output, Tensor) or output.ndim != 2:
        kind = f"shape {tuple(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
        raise SettingError(f"the network returns {kind}; give one that returns a single (N, classes) tensor")
    if classes is not None and output.shape[1] != classes:
        found = f"the network has {output.shape[1]} outputs, the data {classes} classes"
        raise SettingError(f"{found}; build it with num_classes={classes}")
    return output


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """torch.autocast to bfloat16 for precision "bf16", which does nothing for "fp32"; see `precision_of` for "auto".

    Args:
        device: the network's device.
        precision: "auto", "fp32" or "bf16".
    """
    return torch.autocast(device.type, torch.bfloat16, enabled=precision_of(precision, device.type) == "bf16")
