"""Match the classes of a data set with the labels of a detector, by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import nn

from leanconv.core.errors import SettingError
from leanconv.core.record import get_record
from leanconv.core.wrappers import unwrapped
from leanconv.data.classes import class_indices
from leanconv.detect.data import DetectionData, Photo


def photos_for(
    detector: nn.Module, photos: Sequence[Photo], source: str = "the data", *, whole: bool = False
) -> Sequence[Photo]:
    """`photos` with the labels that `detector` uses for their classes. The data may have only some of the detector's classes.

    Args:
        detector: built by `create_detector`; for other detectors the photos are returned unchanged.
        photos: what to relabel.
        source: what an error calls the data.
        whole: the data must have all classes of the detector. Training needs this.

    Raises:
        SettingError: the photos have a class that the detector does not know. If the detector or the data has no class names,
            the numbers of classes are compared instead.
    """
    note = get_record(unwrapped(detector)).detector
    if note is None:
        return photos
    known, outputs = tuple(note["classes"]), note["num_classes"]
    orders: dict[tuple[str, ...], tuple[int, ...] | None] = {}
    for classes in dict.fromkeys(photo.classes for photo in photos):
        if known and classes:
            found = class_indices(known, classes, "the detector", source, whole=whole)
            orders[classes] = None if found == tuple(range(len(known))) else found
        elif classes and len(classes) + 1 != outputs:
            count = len(classes) + 1
            raise SettingError(
                f"the detector has {outputs} classes with the background, {source} {count}; build it with "
                f"num_classes={count}"
            )
    if not any(orders.values()):
        return photos
    return tuple(_relabelled(photo, known, orders.get(photo.classes)) for photo in photos)


def for_detector(detector: nn.Module, data: DetectionData, *, whole: bool = False) -> DetectionData:
    """`data` with the classes of `detector`, in the detector's order; both parts are relabelled with `photos_for`.

    Args:
        detector, whole: see `photos_for`.
        data: what to relabel.
    """
    train, val = (tuple(photos_for(detector, part, data.name, whole=whole)) for part in (data.train, data.val))
    known = tuple((get_record(unwrapped(detector)).detector or {}).get("classes", ()))
    if not known or known == data.classes:
        return data
    ids = dict(zip(data.classes, data.category_ids, strict=True))
    taken = max(data.category_ids)
    # classes that this data does not have get numbers that it does not use
    numbers = tuple(ids.get(name, taken + place) for place, name in enumerate(known, start=1))
    return replace(data, classes=known, category_ids=numbers, train=train, val=val)


def _relabelled(photo: Photo, known: tuple[str, ...], order: tuple[int, ...] | None) -> Photo:
    if order is None:
        return photo
    instances = tuple(replace(one, label=order[one.label - 1] + 1) for one in photo.instances)
    return replace(photo, instances=instances, classes=known)
