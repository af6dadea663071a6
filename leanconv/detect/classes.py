"""Which label of a detector each class of a data set is, by name."""

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
    """`photos` with the labels that `detector` gives their classes; a photo may come from data with some of them only.

    Args:
        whole: the data must have all of the detector's classes, as training on it must.

    Raises:
        SettingError: the photos have a class that the detector does not know, by name where both have names, else by
            their number.
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
    """`data` with the classes of `detector` in its order: `photos_for` of both parts."""
    train, val = (tuple(photos_for(detector, part, data.name, whole=whole)) for part in (data.train, data.val))
    known = tuple((get_record(unwrapped(detector)).detector or {}).get("classes", ()))
    if not known or known == data.classes:
        return data
    ids = dict(zip(data.classes, data.category_ids, strict=True))
    taken = max(data.category_ids)
    # classes that this data has not get numbers that it does not use
    numbers = tuple(ids.get(name, taken + place) for place, name in enumerate(known, start=1))
    return replace(data, classes=known, category_ids=numbers, train=train, val=val)


def _relabelled(photo: Photo, known: tuple[str, ...], order: tuple[int, ...] | None) -> Photo:
    if order is None:
        return photo
    instances = tuple(replace(one, label=order[one.label - 1] + 1) for one in photo.instances)
    return replace(photo, instances=instances, classes=known)
