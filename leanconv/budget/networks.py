"""From a choice to a trained network: convert, recover and score, each stored in the network's folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from leanconv.budget.events import Say, Stage
from leanconv.budget.ordinary import NARROWER, of_share
from leanconv.budget.parts import converted
from leanconv.budget.setup import Setup
from leanconv.budget.space import Candidate
from leanconv.conversion.calibrate import reestimate_norms_
from leanconv.core.atomic import write_json
from leanconv.core.copying import copied
from leanconv.core.notes import set_task
from leanconv.files.load import load
from leanconv.files.save import MODEL_FILE, save
from leanconv.train.config import TrainConfig
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
    plan = setup.space.plan(chosen, reasons)
    work = partial(_recovered, setup, name, lambda: converted(setup.start, plan, setup.batches), setup.recipe)
    return _kept(setup, name, keys, predicted, work, folder, say, progress)


def make_ordinary(setup: Setup, name: str, share: float, folder: Path, say: Say, progress: bool) -> Made:
    """Train and score the network of a built-in control; a finished one is read from its folder.

    A pruned network has the same recovery as the lean one. A narrower one is trained for the epochs of the dense network and
    of the recovery together, by distillation too.

    Args:
        setup, name, folder, say, progress: as in `make`.
        share: of the dense network's MACs.
    """
    recipe = setup.scratch if name == NARROWER else setup.recipe
    work = partial(_recovered, setup, name, lambda: _estimated(setup, of_share(setup, name, share)), recipe)
    return _kept(setup, name, [], {}, work, folder, say, progress)


def make_by(
    setup: Setup, name: str, control: Callable[[Setup], nn.Module], folder: Path, say: Say, progress: bool
) -> Made:
    """Recover and score the network that a user's function makes."""
    return _recovered(setup, name, lambda: _estimated(setup, control(setup)), setup.recipe, folder, say, progress)


def _estimated(setup: Setup, network: nn.Module) -> nn.Module:
    return reestimate_norms_(network, setup.batches)


def _kept(
    setup: Setup, name: str, keys: list[str], predicted: dict[str, float], work: Callable[[Path, Say, bool], Made],
    folder: Path, say: Say, progress: bool,
) -> Made:  # fmt: skip
    """The network of `work`, which is saved in `folder`, or the one that is saved there already."""
    known = read_json(folder / RECORD) if (folder / RECORD).exists() else None
    if known is not None and known["keys"] == keys:
        network = load(folder, copied(setup.teacher))
        say(Stage("verify", f"{name}: finished before"))
        return Made(name, network, known["one_shot"], known["quality"], tuple(keys), known["predicted"])
    made = work(folder, say, progress)
    made.keys, made.predicted = tuple(keys), predicted
    save(made.network, folder)
    record: dict[str, Any] = {"one_shot": made.one_shot, "quality": made.quality, "keys": keys, "predicted": predicted}
    write_json(folder / RECORD, record)
    return made


def _recovered(
    setup: Setup, name: str, network: Callable[[], nn.Module], recipe: TrainConfig | None, folder: Path, say: Say,
    progress: bool,
) -> Made:  # fmt: skip
    student = network()
    if not setup.data.prepared:
        set_task(student, setup.task)
    one_shot = setup.quality(student)
    say(Stage("convert", f"{name}: {one_shot:.2f} before training"))
    if recipe is not None:
        setup.recover(student, setup.teacher, setup.data, recipe, folder / "recovery", progress=progress)
        student.zero_grad(set_to_none=True)
    student = student.cpu().eval()
    quality = one_shot if recipe is None else setup.quality(student)
    say(Stage("recover", f"{name}: {quality:.2f} after {0 if recipe is None else recipe.epochs} epochs"))
    return Made(name, student, one_shot, quality)


def has_network(folder: Path) -> bool:
    """Whether a finished network is in the folder."""
    return (folder / RECORD).exists() and (folder / MODEL_FILE).exists()
