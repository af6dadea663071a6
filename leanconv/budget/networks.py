"""From a choice to a trained network: convert, recover and score, each stored in the network's folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from leanconv.budget.events import Say, Stage
from leanconv.budget.parts import converted, reestimated
from leanconv.budget.setup import Setup
from leanconv.budget.space import Candidate
from leanconv.core.atomic import write_json
from leanconv.core.copying import copied
from leanconv.core.notes import set_task
from leanconv.files.load import load
from leanconv.files.save import MODEL_FILE, save
from leanconv.train.once import read_json

RECORD = "record.json"


@dataclass
class Made:
    """A network of the search.

    Args:
        name: "lean", or the name of a control.
        network: the network in eval mode.
        one_shot: its quality after the conversion, without training.
        quality: its quality after the recovery: validation accuracy in percent, or the value of the user's metric.
        keys: the chosen lean candidates; () for a network that a function made.
        predicted: the predicted values by measure.
    """

    name: str
    network: nn.Module = field(repr=False)
    one_shot: float
    quality: float
    keys: tuple[str, ...] = ()
    predicted: dict[str, float] = field(default_factory=dict)


def make(
    setup: Setup, name: str, chosen: Sequence[Candidate], predicted: dict[str, float], reasons: dict[str, str], folder: Path,
    say: Say, progress: bool,
) -> Made:  # fmt: skip
    """Convert, recover and score the network of a choice; a finished one is read from its folder.

    Args:
        setup: the search.
        name: of the network, for messages.
        chosen: the candidates.
        predicted: their predicted values.
        reasons: why each layer stays dense.
        folder: of this network.
        say: called after each step.
        progress: show the progress of the training.
    """
    keys = [candidate.key for candidate in chosen if candidate.group is not None]
    known = read_json(folder / RECORD) if (folder / RECORD).exists() else None
    if known is not None and known["keys"] == keys:
        network = load(folder, copied(setup.teacher))
        say(Stage("verify", f"{name}: finished before"))
        return Made(name, network, known["one_shot"], known["quality"], tuple(keys), known["predicted"])
    plan = setup.space.plan(chosen, reasons)
    made = _recovered(setup, name, lambda: converted(setup.teacher, plan, setup.batches), folder, say, progress)
    made.keys, made.predicted = tuple(keys), predicted
    save(made.network, folder)
    record: dict[str, Any] = {"one_shot": made.one_shot, "quality": made.quality, "keys": keys, "predicted": predicted}
    write_json(folder / RECORD, record)
    return made


def make_by(
    setup: Setup, name: str, control: Callable[[Setup], nn.Module], folder: Path, say: Say, progress: bool
) -> Made:
    """Recover and score the network that a control's function makes, such as a pruned copy of the dense network."""
    return _recovered(setup, name, lambda: reestimated(control(setup), setup.batches), folder, say, progress)


def _recovered(
    setup: Setup, name: str, network: Callable[[], nn.Module], folder: Path, say: Say, progress: bool
) -> Made:
    student = network()
    if not setup.data.prepared:
        set_task(student, setup.task)
    one_shot = setup.quality(student)
    say(Stage("convert", f"{name}: {one_shot:.2f} before training"))
    if setup.recipe is not None:
        setup.recover(student, setup.teacher, setup.data, setup.recipe, folder / "recovery", progress=progress)
        student.zero_grad(set_to_none=True)
    student = student.cpu().eval()
    quality = setup.quality(student) if setup.recipe is not None else one_shot
    say(Stage("recover", f"{name}: {quality:.2f} after {0 if setup.recipe is None else setup.recipe.epochs} epochs"))
    return Made(name, student, one_shot, quality)


def has_network(folder: Path) -> bool:
    """Whether a finished network is in the folder."""
    return (folder / RECORD).exists() and (folder / MODEL_FILE).exists()
