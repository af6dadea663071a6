"""What a task and other sequences of names take, and what is refused before it counts letters or mixes classes up."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

import leanconv as lc
from leanconv.core.errors import SettingError
from leanconv.detect.detector import create_detector
from leanconv.files.sparse import get_sparse, set_sparse
from leanconv.timing.race import race


def task(**changes: object) -> lc.Task:
    values: dict[str, object] = {"mean": (0.5,), "std": (0.5,), "image_size": (8, 8), "classes": ("cat", "dog")}
    return lc.Task(**(values | changes))  # type: ignore[arg-type]


REFUSED: dict[str, tuple[Callable[[], object], str]] = {
    "a text for classes": (lambda: task(classes="cats"), "classes='cats' must be a sequence of"),
    "bytes for classes": (lambda: task(classes=b"cats"), "must be a sequence of"),
    "a class twice": (lambda: task(classes=("cat", "dog", "cat")), "classes holds 'cat' twice"),
    "an empty class": (lambda: task(classes=("cat", " ")), "classes holds an empty name"),
    "a class that is no text": (lambda: task(classes=("cat", 3)), "must be a sequence of"),
    "a class twice in a file": (
        lambda: lc.Task.from_json({"mean": [0.5], "std": [0.5], "image_size": [8, 8], "classes": ["a", "a"]}),
        "classes holds 'a' twice",
    ),
    "a text for a detector's classes": (lambda: create_detector("retinanet", classes="person"), "classes='person' must be"),
    "a detector's class twice": (lambda: create_detector("retinanet", classes=["a", "a"]), "classes holds 'a' twice"),
    "a text for sparse tensors": (lambda: set_sparse(nn.Linear(1, 1), "weight"), "names='weight' must be a sequence"),
    "a text for runtimes": (
        lambda: race({"net": nn.Linear(1, 1)}, torch.zeros(1, 1), names="eager"), "names='eager' must be a sequence",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_a_sequence_of_names_is_no_text_and_has_no_name_twice(what: str):
    make, message = REFUSED[what]
    with pytest.raises(SettingError, match=message):
        make()


def test_valid_names_are_kept_in_their_order():
    assert task(classes=["dog", "cat"]).classes == ("dog", "cat")
    assert task(classes=()).classes == ()
    model = nn.Linear(1, 1)
    set_sparse(model, ["weight"])
    assert get_sparse(model) == ("weight",)
