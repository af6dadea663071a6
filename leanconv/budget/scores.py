"""The score of each candidate: how much the network's output changes if the candidate alone is swapped in."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from leanconv.budget.costs import Cost, Costs
from leanconv.budget.parts import fitted, without
from leanconv.budget.space import Candidate, Space
from leanconv.budget.walk import Walk
from leanconv.conversion.apply import build
from leanconv.conversion.calibrate import normalising_by_batch
from leanconv.conversion.moments import collect, measured
from leanconv.core.atomic import replacing
from leanconv.core.modes import in_eval
from leanconv.experiment.where import Where
from leanconv.inference.compare import leaves

JOBS = 16  # on a cluster; each holds the network and the images
JOB_FOLDER = ".jobs"
BATCH = 64  # images of a forward pass that measures the inputs of layers
REPAIR = 1e12  # MACs of all forward passes that fit the layers behind a removed block
EPS = 1e-5  # of a variance, as in nn.BatchNorm2d
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation of each channel of a dense layer's output, (C) each."""

    mean: Tensor
    std: Tensor

    @classmethod
    def of(cls, output: Tensor, channel: int) -> Spread:
        """The mean and standard deviation of an output over all dimensions except the channels."""
        over = [dim for dim in range(output.dim()) if dim != channel % output.dim()]
        variance, mean = torch.var_mean(output, over, correction=0)
        return cls(mean, (variance + EPS).sqrt())


class Repaired(nn.Module):
    """A lean layer whose output has the dense layer's mean and standard deviation in each channel, on the present batch.

    A normalisation layer behind a lean layer has the same effect after its statistics are estimated again. A network without
    normalisation layers is treated in the same way.

    Args:
        module: the lean layer.
        wanted: of the dense layer's output in each call of a forward pass, in order.
        channel: the dimension of the channels.
    """

    def __init__(self, module: nn.Module, wanted: Sequence[Spread], channel: int) -> None:
        super().__init__()
        self.module, self.channel = module, channel
        self.wanted = cycle(wanted)

    def forward(self, input: Tensor) -> Tensor:
        y: Tensor = self.module(input)
        found, wanted = Spread.of(y, self.channel), next(self.wanted)
        shape = [1] * y.dim()
        shape[self.channel] = -1
        scale = wanted.std / found.std
        return y * scale.view(shape) + (wanted.mean - found.mean * scale).view(shape)


def divergence(output: Any, reference: Any, classes: int = 0) -> float:
    """How far a network's output is from the dense network's output.

    For a classifier, one tensor (N, classes), it is the mean Kullback-Leibler divergence of the softmax in nats. For any other
    output it is the sum of squared differences over the sum of squared deviations of the reference from its mean, averaged
    over the floating-point tensors.

    Args:
        output, reference: what the two networks give out for the same images.
        classes: the number of classes, at least 2, if the network is a classifier; 0 for other networks. A tensor of another
            width holds no class scores.

    >>> boxes = torch.tensor([[0.0, 2.0]])
    >>> divergence(boxes + 1, boxes), divergence(boxes + 1, boxes, classes=2)
    (1.0, 0.0)
    """
    if isinstance(reference, Tensor) and reference.dim() == 2 and reference.shape[1] == classes > 1:
        log_p, log_q = (F.log_softmax(value.double(), 1) for value in (reference, output))
        return float((log_p.exp() * (log_p - log_q)).sum(1).mean())
    found = []
    for (_, mine), (_, theirs) in zip(leaves(output), leaves(reference), strict=True):
        if isinstance(theirs, Tensor) and theirs.is_floating_point():
            found.append(relative_error(mine, theirs))  # type: ignore[arg-type]
    return sum(found) / max(1, len(found))


def relative_error(output: Tensor, reference: Tensor) -> float:
    """||output - reference||^2 / ||reference - its mean||^2."""
    spread = (reference - reference.mean()).square().sum()
    return float((output - reference).square().sum() / spread.clamp(min=EPS))


def _error(layer: nn.Module, calls: Sequence[tuple[Tensor, Tensor]]) -> float:
    """The mean of the relative errors of a layer in its calls: pairs of an input and the dense output."""
    return sum(relative_error(layer(given), dense) for given, dense in calls) / len(calls)


class Lines:
    """A file of JSON lines that a killed process leaves complete except for its last line.

    Args:
        path: the file; None keeps the records in memory.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.records: dict[str, dict[str, Any]] = {}
        if path is not None and path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                try:
                    record = json.loads(line)
                    self.records[record["key"]] = record
                except (ValueError, KeyError, TypeError):
                    break
            with replacing(path) as temporary:  # without the half line, so that the next record begins a line
                temporary.write_text("".join(json.dumps(record) + "\n" for record in self.records.values()))

    def add(self, key: str, **values: Any) -> None:
        """Append a record."""
        self.records[key] = {"key": key, **values}
        if self.path is not None:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(self.records[key]) + "\n")


@torch.no_grad()
def fit_all(
    model: nn.Module,
    space: Space,
    costs: Costs,
    measures: Sequence[str],
    images: Tensor,
    folder: Path,
    progress: Progress = lambda *_: None,
) -> list[str]:
    """Fit every candidate and store its weights; drop candidates for which another one of the same layers is better.

    A candidate of one layer is dropped if another candidate costs no more in any of `measures`, and its error on the layer's
    output is not larger. A record for each candidate is in fits.jsonl; the weights of the remaining ones are in fits/.

    Args:
        model: the dense network, in eval mode.
        space, costs: the candidates and their costs.
        measures: what the budget limits.
        images: calibration images, (N, C, H, W).
        folder: where the results are stored; results that it holds already are used.
        progress: called with (done, all, layer) after each layer.

    Returns:
        the keys of the remaining candidates. Removed blocks have no weights, and all remain.
    """
    lines, walk = Lines(folder / "fits.jsonl"), Walk(model, images)
    for number, site in enumerate(space.sites, 1):
        own = [one for one in space.lean if one.sites[0] == site and one.group is not None]
        if any(one.key not in lines.records for one in own) or not _file(folder, site.name).exists():
            walk.go(site.name, len(site.sizes))
            channel = 1 if site.kind == "conv" else -1
            wanted = [Spread.of(dense, channel) for _, dense in walk.calls]
            layer = model.get_submodule(site.name)
            stats = measured(layer, {site.name: layer}, [given for given, _ in walk.calls])
            if shared := {site.name for one in own for site in one.sites if len(one.sites) > 1}:
                stats |= collect(model, sorted(shared), images.split(BATCH))
            modules = {one.key: fitted(one, model, [stats[site.name] for site in one.sites]) for one in own}
            errors = {
                one.key: _error(Repaired(modules[one.key][0], wanted, channel), walk.calls)
                for one in own
                if len(one.sites) == 1
            }
            left = undominated(own, costs, measures, errors)
            tensors = {name: torch.stack([getattr(one, name) for one in wanted]) for name in ("mean", "std")}
            for one in own:
                if one.key in left:
                    state = nn.ModuleList(modules[one.key]).state_dict()
                    tensors |= {_prefix(one) + name: tensor.contiguous() for name, tensor in state.items()}
            with replacing(_file(folder, site.name)) as temporary:
                save_file(tensors, temporary)
            for one in own:
                lines.add(one.key, error=errors.get(one.key), kept=one.key in left)
        progress(number, len(space.sites), site.name)
    left = {key for key, record in lines.records.items() if record["kept"]}
    return [one.key for one in space.lean if one.block is not None or one.key in left]


def undominated(
    candidates: Sequence[Candidate], costs: Costs, measures: Sequence[str], errors: Mapping[str, float]
) -> set[str]:
    """The candidates of one layer for which no other candidate is as cheap in each of `measures` with no larger error.

    Candidates without an error (of several layers) all remain.
    """
    left: dict[str, tuple[float, ...]] = {}
    for one in sorted((one for one in candidates if one.key in errors), key=lambda one: errors[one.key]):
        own = _values(costs.by_key[one.key], measures)
        if not any(all(a <= b for a, b in zip(other, own, strict=True)) for other in left.values()):
            left[one.key] = own
    return {*left, *(one.key for one in candidates if one.key not in errors)}


def _values(cost: Cost, measures: Sequence[str]) -> tuple[float, ...]:
    memory = (cost.bytes, sum(cost.inner.values()))
    own = [memory if measure == "memory" else (cost.of(measure) or 0.0,) for measure in measures]
    return tuple(value for values in own for value in values)


def _file(folder: Path, name: str) -> Path:
    return folder / "fits" / f"{name}.safetensors"


def score_all(
    model: nn.Module,
    space: Space,
    images: Tensor,
    folder: Path,
    progress: Progress = lambda *_: None,
    on: Where | None = None,
    *,
    fits: Tensor | None = None,
    classes: int = 0,
) -> dict[str, float]:
    """The divergence of each candidate from the dense network's output, if this candidate alone is swapped in.

    Only the forward pass from the candidate's first layer on is computed. Each score is stored in scores.jsonl when it is known.
    Without a block, the layers behind it are fitted to their old outputs (`leanconv.budget.parts.without`), and all batch norms
    normalise with the statistics of the images, as if they were estimated again; those of the dense network do so too.

    Args:
        model: the dense network, in eval mode.
        space: the candidates; `fit_all` has stored their weights.
        images: images, (N, C, H, W), beside those on which `fit_all` fitted the candidates.
        folder: where the results are stored; scores that it holds already are used.
        progress: called with (done, all, candidate) after each candidate.
        on: where the scores are computed, as independent jobs that see `folder`; None computes them here.
        fits: images for the fits behind a removed block; None takes `images`.
        classes: of a classifier, as in `divergence`.

    Returns:
        the scores by key.

    Raises:
        RunError: a job failed; the scores of the others are stored.
    """
    lines = Lines(folder / "scores.jsonl")
    left = space.only(one.key for one in space.lean if one.key not in lines.records)
    fits = images if fits is None else fits
    if on is None:
        found = scored(model, left, images, folder, fits, classes)
    else:
        found = _elsewhere(model, left, images, folder, fits, classes, on)
    for done, (key, value) in enumerate(found, 1 + len(space.lean) - len(left.lean)):
        lines.add(key, divergence=value)
        progress(done, len(space.lean), key)
    return {one.key: lines.records[one.key]["divergence"] for one in space.lean}


@torch.no_grad()
def scored(
    model: nn.Module, space: Space, images: Tensor, folder: Path, fits: Tensor, classes: int
) -> Iterator[tuple[str, float]]:
    """(key, score) of each candidate, as soon as it is computed; arguments as for `score_all`."""
    walk = Walk(model, images)
    reference: Any = None
    estimated: Any = None  # the reference of removed blocks
    for site in space.sites:
        own = [one for one in space.lean if one.sites[0] == site]
        if own:
            reference = walk.output() if reference is None else reference
            walk.go(site.name)
        for one in own:
            if one.block is None:
                yield one.key, divergence(walk.output(stored_modules(one, model, folder)), reference, classes)
                continue
            if estimated is None:
                estimated = _by_batch(model, images)
            lean = without(model, [one.block], fits.split(BATCH), REPAIR)
            yield one.key, divergence(_by_batch(lean, images), estimated, classes)


def _by_batch(model: nn.Module, images: Tensor) -> Any:
    """The output of `model` if its norms are estimated on the images."""
    with normalising_by_batch(model):
        return model(images)


def _elsewhere(
    model: nn.Module, space: Space, images: Tensor, folder: Path, fits: Tensor, classes: int, on: Where
) -> Iterator[tuple[str, float]]:
    """The same in at most `JOBS` jobs, each for candidates whose first layers follow each other."""
    firsts = [site for site in space.sites if any(one.sites[0] == site for one in space.lean)]
    size = max(1, -(-len(firsts) // JOBS))
    jobs = {}
    for start in range(0, len(firsts), size):
        sites = firsts[start : start + size]
        part = space.only(one.key for one in space.lean if one.sites[0] in sites)
        jobs[sites[0].name] = partial(_scores, model, part, images, folder.resolve(), fits, classes)
    failed: Exception | None = None
    for _, found in on.run(jobs, folder / JOB_FOLDER) if jobs else ():
        if isinstance(found, Exception):
            failed = found
        else:
            yield from found.items()
    if failed is not None:
        raise failed


def _scores(
    model: nn.Module, space: Space, images: Tensor, folder: Path, fits: Tensor, classes: int
) -> dict[str, float]:
    return dict(scored(model, space, images, folder, fits, classes))


def stored_modules(candidate: Candidate, model: nn.Module, folder: Path) -> dict[str, nn.Module]:
    """The fitted and repaired modules of a candidate by the names of their layers, from the files of `fit_all`."""
    assert candidate.group is not None
    convs: list[Any] = [model.get_submodule(site.name) for site in candidate.sites]
    built = nn.ModuleList(build(candidate.group, convs, "fresh"))
    prefix = _prefix(candidate)
    with safe_open(_file(folder, candidate.sites[0].name), "pt") as file:
        names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118  it is no dict
        built.load_state_dict({name.removeprefix(prefix): file.get_tensor(name) for name in names})
    found: dict[str, nn.Module] = {}
    for site, module in zip(candidate.sites, built, strict=True):
        with safe_open(_file(folder, site.name), "pt") as file:
            # each has a row for each call; an earlier version had the first call only, without a row
            means, stds = (torch.atleast_2d(file.get_tensor(name)) for name in ("mean", "std"))
        wanted = [Spread(mean, std) for mean, std in zip(means, stds, strict=True)]
        found[site.name] = in_eval(Repaired(module, wanted, 1 if site.kind == "conv" else -1))
    return found


def _prefix(candidate: Candidate) -> str:
    return f"{candidate.key} | "
