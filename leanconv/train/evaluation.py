"""Measure the accuracy of a network on labelled images."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from leanconv.core.errors import SettingError
from leanconv.core.layout import best_layout
from leanconv.core.modes import evaluating
from leanconv.core.notes import get_task
from leanconv.core.shown import first_names
from leanconv.data import LabelledImages, make_loader
from leanconv.data.classes import SHOWN, class_indices
from leanconv.train.failures import failures
from leanconv.train.scoring import Scores, autocast, log_probabilities, tally
from leanconv.train.together import Together

ALONE = Together()


def evaluate(
    model: nn.Module,
    images: LabelledImages,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    batch_size: int = 500,
    ten_crop: bool = False,
    precision: str = "fp32",
    channels_last: bool = True,
    image_size: int | tuple[int, int] | None = None,
    workers: int = 0,
    classes: Sequence[str] | None = None,
    shared: Together = ALONE,
) -> Scores:
    """Top-1 and top-5 accuracy and cross-entropy of `model`, on its own device and in evaluation mode.

    If the network and the data both know the names of their classes, a label belongs to the output of the same name; the
    orders may differ, and the images may show only some of the classes. Otherwise the numbers of classes must be equal.

    Args:
        model: the network.
        images: the labelled images.
        mean, std: for each channel, of pixels in [0, 1].
        batch_size: images in a forward pass.
        ten_crop: average the probabilities over ten crops of each image.
        precision: "fp32" or "bf16" (autocast).
        channels_last: use this memory format for the images, if the network runs in it.
        image_size, workers: as in `make_loader`.
        shared: the processes that share this evaluation; each image is counted once. See `leanconv.train.together`.
        classes: names of the network's outputs; None takes the names in its task (`leanconv.core.notes.get_task`).

    Raises:
        SettingError: the images have a class that the network does not know, or another number of classes.
    """
    names = _known(model) if classes is None else tuple(classes)
    outputs, where = outputs_for(names, images)
    size = (image_size, image_size) if isinstance(image_size, int) else image_size or images.image_size
    if channels_last and size is not None:
        channels_last = best_layout(model, (images.channels, *size)) == torch.channels_last
    loader = make_loader(
        images, mean=mean, std=std, batch_size=batch_size, image_size=image_size, train=False,
        workers=workers, channels_last=channels_last, ten_crop=ten_crop, rank=shared.rank, world_size=shared.processes, raw=True,
    )  # fmt: skip
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    total = torch.zeros(4, device=device)
    with evaluating(model), torch.inference_mode(), autocast(device, precision), failures():
        for batch, labels in loader:
            seen = loader.finish(batch.to(device))
            logits = _fitting(
                log_probabilities(model, seen), outputs or int(images.labels.max()) + 1, not outputs, names
            )
            total += tally(logits, (labels if where is None else where[labels]).to(device))
    return Scores.of(shared.summed(total))


def outputs_for(known: Sequence[str], images: LabelledImages) -> tuple[int, Tensor | None]:
    """(number of outputs that the network must have, output of each label); None if a label's number is its output.

    Args:
        known: names of the network's classes; () if they are not known.
        images: the labelled images.

    Raises:
        SettingError: the names of the classes differ.
    """
    if known and images.named:
        where = class_indices(known, images.classes, "the network", "the data")
        return len(known), None if where == tuple(range(len(known))) else torch.tensor(where)
    if known and images.classes and len(known) != len(images.classes):
        raise SettingError(
            f"the network has {len(known)} classes ({first_names(known, SHOWN)}) and the data {len(images.classes)} "
            "without class names; take the data it was trained on"
        )
    return len(known) or len(images.classes), None


def in_outputs(images: LabelledImages, known: Sequence[str]) -> LabelledImages:
    """`images` with the network's output of each class as its label, as `outputs_for` says.

    Args:
        images: the labelled images.
        known: names of the network's classes; () if they are not known.

    Raises:
        SettingError: the names of the classes differ.
    """
    _, where = outputs_for(known, images)
    return images if where is None else images.relabelled(where[images.labels])


def _known(model: nn.Module) -> tuple[str, ...]:
    task = get_task(model)
    return () if task is None else task.classes


def _fitting(logits: Tensor, outputs: int, more: bool, names: Sequence[str]) -> Tensor:
    """`logits`, if their number equals the number of classes, or exceeds it and `more` is true."""
    found = logits.shape[1]
    if found != outputs and not (more and found > outputs):
        said = f"names {outputs} classes" if names else f"gets data of {outputs} classes"
        raise SettingError(
            f"the network {said} and has {found} outputs; take the data it was trained on, or set its classes with "
            "lc.set_task"
        )
    return logits
