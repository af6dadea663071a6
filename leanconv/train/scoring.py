"""What training and evaluation count in the same way."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from leanconv.core.errors import SettingError


@dataclass(frozen=True)
class Scores:
    """Accuracies in percent, mean cross-entropy (nats, no label smoothing) and the number of images they are over."""

    top1_pct: float
    top5_pct: float
    loss: float
    n: int

    @classmethod
    def of(cls, tally: Tensor) -> Scores:
        loss, top1, top5, n = tally.tolist()
        return cls(100 * top1 / n, 100 * top5 / n, loss / n, int(n))


def tally(logits: Tensor, labels: Tensor) -> Tensor:
    """(summed cross-entropy, hits among the first, hits among the first five, images), as one float tensor."""
    logits = logits.float()
    loss = F.cross_entropy(logits, labels, reduction="sum")
    hits = logits.topk(min(5, logits.shape[1]), dim=1).indices == labels[:, None]
    return torch.stack([loss, hits[:, 0].sum(), hits.sum(), torch.full_like(loss, len(labels))])


def log_probabilities(model: nn.Module, images: Tensor) -> Tensor:
    """Log-probabilities, up to a constant, of each image: (N, C, H, W), or (N, crops, C, H, W) averaged over its crops.

    Several crops are averaged as probabilities.
    """
    if images.ndim == 4:
        return logits_of(model(images))
    crops = images.shape[1]
    each = logits_of(model(images.flatten(0, 1))).float().softmax(dim=1)
    probabilities = each.reshape(-1, crops, each.shape[1])
    return probabilities.mean(dim=1).log()


def logits_of(output: object, classes: int | None = None) -> Tensor:
    """The network's output, if it is what a classifier gives.

    Raises:
        SettingError: it is no (N, classes) tensor.
    """
    if not isinstance(output, Tensor) or output.ndim != 2:
        kind = f"shape {tuple(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
        raise SettingError(f"the network returns {kind}; give one that returns a single (N, classes) tensor")
    if classes is not None and output.shape[1] != classes:
        found = f"the network has {output.shape[1]} outputs, the data {classes} classes"
        raise SettingError(f"{found}; build it with num_classes={classes}")
    return output


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """bfloat16 where it is safe, or nothing at all."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")
