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
from leanconv.budget.setup import Setup
from leanconv.budget.space import Candidate
from leanconv.conversion.calibrate import reestimate_norms_
from leanconv.core.atomic import write_json
from leanconv.core.copying import copied
from leanconv.core.modes import in_eval
from leanconv.core.wrappers import unwrapped
from leanconv.files.save import MODEL_FILE
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
        more: "before" and "after": the other measures before and after the recovery, see `Scored`.
        keys: the chosen lean candidates; () for a network that a function made.
        predicted: the predicted values by measure.
    """

    name: str
    network: nn.Module = field(repr=False)
    one_shot: float
    quality: float
    more: dict[str, Any] = field(default_factory=dict)
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
    keys = [candidate.key for candidate in chosen if candidate.changes]
    work = partial(_recovered, setup, name, lambda: setup.network(chosen, reasons))
    return _kept(setup, name, keys, predicted, work, folder, say, progress)


def make_ordinary(setup: Setup, name: str, share: float, folder: Path, say: Say, progress: bool) -> Made:
    """Train and score the network of a built-in control; a finished one is read from its folder.

    A pruned network has the same recovery as the lean one. A narrower one is trained for the epochs of the dense network and
    of the recovery together, by distillation too.

    Args:
        setup, name, folder, say, progress: as in `make`.
        share: of the dense network's MACs.
    """
    part = partial(of_share, setup, name, share)
    work = partial(_recovered, setup, name, lambda: _estimated(setup, part()), scratch=name == NARROWER)
    return _kept(setup, name, [], {}, work, folder, say, progress)


def make_by(
    setup: Setup, name: str, control: Callable[[Setup], nn.Module], folder: Path, say: Say, progress: bool
) -> Made:
    """Recover and score the network with the module that a user's function makes.

    Raises:
        SettingError: the function returns something else.
    """
    return _recovered(setup, name, lambda: _estimated(setup, _own(setup, control(setup))), folder, say, progress)


def _own(setup: Setup, part: nn.Module) -> nn.Module:
    """The module of a control; a copy, if it holds weights of the dense network, which must stay as they are."""
    part, dense = unwrapped(part), {id(parameter) for parameter in setup.teacher.parameters()}
    return copied(part) if any(id(parameter) in dense for parameter in part.parameters()) else part


def _estimated(setup: Setup, part: nn.Module) -> nn.Module:
    return reestimate_norms_(part, setup.batches)


def _kept(
    setup: Setup, name: str, keys: list[str], predicted: dict[str, float], work: Callable[[Path, Say, bool], Made],
    folder: Path, say: Say, progress: bool,
) -> Made:  # fmt: skip
    """The network of `work`, which is saved in `folder`, or the one that is saved there already."""
    known = read_json(folder / RECORD) if (folder / RECORD).exists() else None
    if known is not None and known["keys"] == keys:
        network = setup.load(folder)
        say(Stage("verify", f"{name}: finished before"))
        more = known.get("more", {})  # earlier versions did not store it
        return Made(name, network, known["one_shot"], known["quality"], more, tuple(keys), known["predicted"])
    made = work(folder, say, progress)
    made.keys, made.predicted = tuple(keys), predicted
    setup.save(made.network, folder)
    record = {name: getattr(made, name) for name in ("one_shot", "quality", "more", "predicted")}
    write_json(folder / RECORD, record | {"keys": keys})
    return made


def _recovered(
    setup: Setup, name: str, part: Callable[[], nn.Module], folder: Path, say: Say, progress: bool, *, scratch: bool = False
) -> Made:  # fmt: skip
    student = setup.whole(part())
    before = after = setup.scored(student)
    say(Stage("convert", f"{name}: {before.value:.2f} before training"))
    epochs = setup.train_(student, folder / "recovery", scratch=scratch, progress=progress)
    student.zero_grad(set_to_none=True)
    student = in_eval(student.cpu())
    if epochs:
        after = setup.scored(student)
    say(Stage("recover", f"{name}: {after.value:.2f} after {epochs} epochs"))
    more = {"before": before.more, "after": after.more}
    return Made(name, student, before.value, after.value, more)


def has_network(folder: Path) -> bool:
    """Whether a finished network is in the folder."""
    return (folder / RECORD).exists() and (folder / MODEL_FILE).exists()
