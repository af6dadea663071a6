"""The flags of `leanconv lean`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from leanconv.budget.limits import Budget
from leanconv.cli.options import refuse
from leanconv.cli.train_flags import texts
from leanconv.core.errors import SettingError

Out = Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder of the search and of the lean network.")]
Budgets = Annotated[
    list[str] | None,
    typer.Option(
        "--budget", metavar="LIMITS",
        help="time=0.5 or time=12ms; macs, params, bytes or memory; several by comma. At most 1: a part of dense.",
    ),
]  # fmt: skip
MaxDrop = Annotated[
    float | None,
    typer.Option("--max-drop", min=0, help="The leanest network that loses at most these points of accuracy."),
]
Methods = Annotated[
    list[str] | None, typer.Option("--methods", metavar="NAME", help="Try only these, by comma; may be repeated.")
]
Controls = Annotated[
    str, typer.Option("--controls", help="By comma: uniform, random, pruned, pruned_random, narrower; or none.")
]
Recipe = Annotated[
    str | None,
    typer.Option(
        "--recipe",
        metavar="NAME|FILE",
        help="Settings of the training, for a tenth of its epochs. Default: of TARGET's run, else as in leanconv train.",
    ),
]
Resume = Annotated[bool, typer.Option("--resume", help="Continue an interrupted search.")]
Pyramid = Annotated[bool, typer.Option("--pyramid", help="Of a detector: make the feature pyramid lean too.")]


def methods_of(given: Sequence[str] | None) -> list[str]:
    """The methods of --methods: a text without settings may name several, by comma.

    >>> methods_of(["tied_block, split", "low_rank(parts=2,rank=8)"])
    ['tied_block', 'split', 'low_rank(parts=2,rank=8)']
    """
    return [name for text in given or () for name in ([text] if "(" in text else texts(text))]


def budget_of(limits: Sequence[str] | None, max_drop: float | None, minimise: object) -> Budget:
    """The budget of --budget and --max-drop; --minimise is refused where it has no effect."""
    budget = Budget.of(",".join([*(limits or []), *([] if max_drop is None else [f"max_drop={max_drop}"])]))
    refuse("a search without --max-drop", {"--minimise": minimise}, budget.max_drop is None)
    return budget


def refuse_for_detector(target: str, given: Mapping[str, Any]) -> None:
    """Raise SettingError if a flag that is for classifiers was given with a detector."""
    unused = next((name for name, value in given.items() if value), None)
    if unused is not None:
        flag = f"--{unused.replace('_', '-')}"
        raise SettingError(f"{target} holds a detector, and {flag} is for classifiers; leave it out")


def refuse_for_classifier(target: str, pyramid: bool) -> None:
    """Raise SettingError if a flag that is for detectors was given with a classifier."""
    if pyramid:
        raise SettingError(f"--pyramid is for detectors, and {target} holds none; leave it out")
