"""From a trained network to a lean network under a budget, with one call."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from leanconv.budget.classifier import prepared, teacher_of
from leanconv.budget.config import EXECUTION, LeanConfig
from leanconv.budget.controls import RANDOM, UNIFORM
from leanconv.budget.flow import Flow, Found
from leanconv.budget.limits import Budget, Limit
from leanconv.budget.networks import has_network
from leanconv.budget.ordinary import ORDINARY
from leanconv.budget.parts import Metric, Recovery, distil
from leanconv.budget.result import LeanResult
from leanconv.budget.setup import Control, Setup
from leanconv.budget.solver import UnmetError
from leanconv.budget.times import Cache
from leanconv.conversion.plan import Include, Where
from leanconv.core.atomic import write_json
from leanconv.core.errors import SettingError
from leanconv.core.machine import provenance
from leanconv.core.method import Method
from leanconv.core.settings import several
from leanconv.core.task_settings import TaskSettings
from leanconv.data.own import DataLike, as_images
from leanconv.experiment.events import Progress, Waiting, teller
from leanconv.experiment.where import where_of
from leanconv.files.target import Network, as_text
from leanconv.train.caller import undisturbed
from leanconv.train.config import TrainConfig
from leanconv.train.once import SUMMARY_FILE, UNMET_FILE, finished, once
from leanconv.train.optimizers import check_float32, check_trainable

LEAN = "lean"
FOLDER = re.compile(r"[A-Za-z0-9][\w .+-]*")  # a name of a control
# What a search has in its folder until it knows whether its budget can be met
LEAVES = (
    "costs.json", "start.json", "frontier.json", "time.json", "choice.json", "dense.json", "fits.jsonl", "scores.jsonl",
    "channels.safetensors", "fits", "networks", "narrowed-*", ".jobs",
)  # fmt: skip
SCORES = "rows"  # what a finished search has in its summary
AnyResult = TypeVar("AnyResult", bound=LeanResult)


def lean(
    model: Network | Path,
    data: DataLike,
    budget: Budget | str | Mapping[str, Any],
    out: str | Path | None = None,
    config: TrainConfig | str | Path | None = None,
    *,
    methods: str | Method | Sequence[str | Method] = (),
    where: Where = (),
    exclude: Where = (),
    include: Include | None = None,
    metric: Metric | None = None,
    controls: str | Sequence[str] | Mapping[str, Control | None] = (UNIFORM, RANDOM),
    recover: Recovery = distil,
    pretrained: bool = False,
    weights: str | Path | None = None,
    state: str | None = None,
    task: TaskSettings | None = None,
    test_split: float | None = None,
    resume: bool = False,
    progress: Progress = True,
    cache: Cache = "default",
    command: str = "leanconv.lean(...)",
    **settings: Any,
) -> LeanResult:
    """Make a trained network lean under a budget, and keep its accuracy.

    Every layer gets candidates: each method at a grid of settings. A candidate is fitted to the dense layer and scored by the
    divergence of the network's output from the dense network's output, if this candidate alone is swapped in. The choice with
    the least sum of scores within the budget is exact. The chosen network is converted, trained, measured and exported.

    Stages: measure, fit, score, solve, convert, recover, verify, export. Each is stored in `out`.

    Args:
        model: the trained network, which is not changed: a module, a name, a folder, or a function that returns a network.
        data: as in `leanconv.fit`. Scores and training use the train part, choices the validation part that is held out of
            it, and the test part is read once for each network in the result.
        budget: "time=0.5", "time=12ms", "params=0.25,macs=60M", {"bytes": "1MB"}: parts of the dense network's value or values,
            for time, macs, params, bytes (of the weights) and memory (weights and feature maps of a call). Or "max_drop=1.0":
            the leanest network, by `minimise`, that loses at most one point of validation accuracy.
        out: the folder of the search: each stage, the lean network, its exported file, summary.json and report.html. None
            keeps no files. A finished search is read from there, and another one refused: also one with other functions, see
            `leanconv.core.functions.function_text`.
        config: settings of the training after the conversion, as in `leanconv.fit`; by default those of the network's own run, or
            else those that suit the data, for a tenth of the epochs and half of the learning rate.
        methods: names of methods, or methods with settings; () tries all.
        where, exclude, include: the layers that may become lean, as in `leanconv.plan`.
        metric: a function of a network in eval mode that returns a number, higher is better; by default validation accuracy.
        controls: what the result is compared with under the same budget: "uniform" (one method and setting everywhere), "random",
            "pruned" and "pruned_random" (channels removed by magnitude or at random, same recovery), "narrower" (fewer channels,
            trained from scratch for the epochs of the dense network and the recovery), or a mapping with functions of the
            `Setup` that return a network. () compares with nothing.
        recover: the training after the conversion, see `leanconv.budget.parts.Recovery`.
        pretrained: start from published weights, for networks by name.
        weights, state: the checkpoint that holds the trained weights, for networks by name; the part of it, as in
            `leanconv.load_checkpoint`.
        task: what a checkpoint does not hold: its classes and how its images were prepared. `weights` needs it; in Python,
            `leanconv.note_task` tells the same of a module.
        test_split: as in `leanconv.fit`.
        resume: continue the unfinished search in `out`.
        progress: True prints a line for each step; a function is called with each event.
        cache: the file of measured times, as in `leanconv.optimize`.
        command: the command line that the report shows.
        settings: settings of `leanconv.budget.LeanConfig`: runtime, batch, recovery_epochs, ...

    Returns:
        the networks, layers and frontier: `.network`, `.plan`, `.table()`, `.to_pandas()`, `.report("page.html")`.

    Raises:
        SettingError: a setting or limit is unknown, no choice meets the budget (the error names the nearest that can be met), or
            the network does not fit the images.
        CheckError: every network loses more than max_drop.
        DataError: the images cannot be used.

    >>> import leanconv as lc
    >>> found = lc.lean(lc.create_model("resnet8", num_classes=10, in_chans=1), "digits", "macs=0.6", methods=["tied_block"],
    ...     images=16, recovery_epochs=0, controls=(), threads=1, progress=False, cache=None)
    >>> found.rows[1]["macs"] <= 0.6 * found.rows[0]["macs"]
    True
    """
    check_functions(metric, recover)
    model, asked, chosen = as_text(model), Budget.of(budget), LeanConfig(**settings)
    images = as_images(data, test_split=test_split, networks=(model,))
    setup = prepared(
        teacher_of(model, images, pretrained, weights, state, task or TaskSettings()), images, asked, chosen, config,
        target=model, methods=checked_methods(methods), controls=named_controls(controls), where=several(where),
        exclude=several(exclude), include=include, metric=metric, recover=recover, cache=cache,
    )  # fmt: skip
    return searched(setup, LeanResult, out, resume=resume, progress=progress, command=command)


def checked_methods(given: str | Method | Sequence[str | Method]) -> tuple[str | Method, ...]:
    """The methods as a tuple; one alone stands for itself.

    Raises:
        SettingError: something else is among them.
    """
    methods = several(given)
    for method in methods:
        if not isinstance(method, str | Method):
            raise SettingError(f"methods={method!r} must be a name, or a method such as TiedBlock(blocks=2)")
    return methods


def check_functions(metric: object, recover: object) -> None:
    """Raise SettingError unless both can be called; without a metric, it is None."""
    if metric is not None and not callable(metric):
        raise SettingError(f"metric={metric!r} must be a function of a network that returns a number, higher is better")
    if not callable(recover):
        raise SettingError(
            f"recover={recover!r} must be a function that trains, see leanconv.budget.parts.Recovery; recovery_epochs=0 leaves "
            "the training out"
        )


def named_controls(given: str | Sequence[str] | Mapping[str, Control | None]) -> dict[str, Control | None]:
    """The controls by name; None for a built-in one.

    Raises:
        SettingError: a built-in control does not exist, a name is no name of a folder or belongs to another network, or a
            function is none.
    """
    found = dict(given) if isinstance(given, Mapping) else dict.fromkeys(several(given))
    for name, control in found.items():
        if control is not None and not callable(control):
            raise SettingError(
                f"controls: {name!r} must be a function of the Setup that returns a network, not {control!r}"
            )
        if control is not None and not (isinstance(name, str) and FOLDER.fullmatch(name)):
            raise SettingError(
                f"controls={name!r} must be letters, digits, spaces and . _ + -, after a letter or digit: it names a folder"
            )
        if control is None and name not in (built_in := (UNIFORM, RANDOM, *ORDINARY)):
            raise SettingError(
                f"controls={name!r} must be {', '.join(built_in)}, or a name with a function: {{name: function}}"
            )
        if name in ("dense", LEAN):
            raise SettingError(f"controls={name!r} is the name of a network that is shown anyway; choose another name")
    return found


def searched(
    setup: Setup, result: type[AnyResult], out: str | Path | None, *, resume: bool, progress: Progress, command: str
) -> AnyResult:
    """The result of a search: from its folder if it is finished.

    Args:
        setup: everything that decides it.
        result: the class of the result.
        out, resume, progress, command: as in `lean`.
    """
    if setup.config.check in (1, 2):
        raise SettingError(f"check={setup.config.check} must be at least 3 choices, or 0 for none")
    if where_of(setup.config.on) is not None and out is None:
        raise SettingError("on= needs out=: a folder that all machines see")
    if out is not None:
        return _search(setup, result, Path(out).expanduser(), resume, progress, command)
    with tempfile.TemporaryDirectory() as folder:
        return replace(_search(setup, result, Path(folder), resume, progress, command), folder=None)


def _search(
    setup: Setup, kind: type[AnyResult], folder: Path, resume: bool, progress: Progress, command: str
) -> AnyResult:
    say = teller(progress)
    found: list[Found] = []
    check_float32(setup.dense)
    if setup.trains and not finished(folder, SCORES):
        check_trainable(setup.dense, ", or leave the recovery out: recovery_epochs=0")
    identity = setup.identity()  # before the user's functions run, which may count their calls

    def work() -> dict[str, Any]:
        with undisturbed("cpu", alone=False):
            torch.manual_seed(setup.config.seed)
            try:
                found.append(Flow(setup, folder, say, progress is True).run())
            except UnmetError as error:
                write_json(folder / UNMET_FILE, {"error": str(error)})
                raise
        return _summary(setup, identity, found[0], command)

    summary = once(
        folder, identity, work, resume=resume, scores=SCORES, waiting=lambda: say(Waiting(folder)), asked=_asked, leaves=LEAVES
    )  # fmt: skip
    (folder / UNMET_FILE).unlink(missing_ok=True)
    lean, controls = _networks(setup, folder, summary, found[0] if found else None)
    result = kind(summary, lean, controls, folder)
    if found:
        write_json(folder / SUMMARY_FILE, summary)
        result.report(folder / "report.html")
    return result


def _asked(identity: Mapping[str, Any]) -> str:
    """The budget of a search as text; "" for what is no search."""
    given = identity.get("budget")
    if not isinstance(given, dict):
        return ""
    return str(Budget(tuple(Limit(**one) for one in given["limits"]), given["max_drop"]))


def _networks(
    setup: Setup, folder: Path, summary: Mapping[str, Any], found: Found | None
) -> tuple[nn.Module, dict[str, nn.Module]]:
    """The lean network and the networks of the controls, from memory or from their folders."""
    if found is not None:
        controls = {name: made.network for name, made in found.networks.items() if name != LEAN}
        return found.networks[LEAN].network, controls
    names = [row["network"] for row in summary["rows"] if row["network"] not in ("dense", LEAN)]
    folders = {name: folder / "networks" / name for name in names}
    return setup.load(folder), {name: setup.load(own) for name, own in folders.items() if has_network(own)}


def _summary(setup: Setup, identity: Mapping[str, Any], found: Found, command: str) -> dict[str, Any]:
    """The result as ``results/schema.json`` wants it."""
    execution = {name: getattr(setup.config, name) for name in EXECUTION}
    settings = {**identity, "asked": str(setup.budget), "metric": setup.metric is not None, "execution": execution}
    return {
        **provenance(command),
        "status": "finished",
        "kind": setup.kind,
        "settings": settings,
        "n": 1,
        "seeds": [setup.config.seed],
        "rows": found.rows,
        "layers": found.layers,
        "starts": found.starts,
        "frontier": found.frontier,
        "achieved": found.achieved,
        "prediction": found.prediction,
        "exported": found.exported,
        "notes": found.notes,
    }
