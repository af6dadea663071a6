"""The runs of a comparison: each network with each method and each seed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

from leanconv.conversion.methods import label_of, parse_methods
from leanconv.core.errors import SettingError
from leanconv.core.method import DENSE, Method
from leanconv.experiment.controls import CONTROLS, Control
from leanconv.experiment.job import Job
from leanconv.files.target import Network, as_text, network_name

Methods = str | Sequence[str | Method | Control | None] | Mapping[str, Method | Control | None]
Networks = Network | Path | Sequence[str | Path] | Mapping[str, Network | Path]


def jobs_of(models: Networks, methods: Mapping[str, Method | Control | None], job: Job, seeds: int) -> list[Job]:
    """`job` for each network, method and seed; all networks come before the next seed.

    Raises:
        SettingError: a network is given twice.
    """
    return [
        replace(job, network=network, method=method, name=name, config=job.config.replace(seed=seed))
        for seed in range(job.config.seed, job.config.seed + seeds)
        for name, network, method in _labelled(models, methods)
    ]


def check_several(models: Networks, methods: Methods | None) -> None:
    """Raise SettingError if there is only one network and no method."""
    several = isinstance(models, list | tuple | Mapping) and len(models) > 1
    if methods is None and not several:
        named = next(iter(models)) if isinstance(models, list | tuple | Mapping) else models
        text = network_name(as_text(cast(Network | Path, named)))
        raise SettingError(
            f'nothing to compare {text} with; add --methods "dense,split(ratio=0.5)" (methods=) or another network'
        )


def networks_of(models: Networks) -> list[Network | Path]:
    """The networks without their labels.

    >>> networks_of("resnet8"), networks_of({"a": "resnet8", "b": "resnet20"})
    (['resnet8'], ['resnet8', 'resnet20'])
    """
    if isinstance(models, Mapping):
        return list(models.values())
    return list(models) if isinstance(models, list | tuple) else [cast(Network | Path, models)]


def methods_of(methods: Methods | None) -> dict[str, Method | Control | None]:
    """The methods by label: their canonical text, or the key of a mapping. None means dense only."""
    if methods is None or isinstance(methods, str):
        return parse_methods(methods or DENSE, CONTROLS)
    if isinstance(methods, Mapping):
        return dict(methods)
    found: dict[str, Method | Control | None] = {}
    for entry in methods:
        for label, method in (
            parse_methods(entry, CONTROLS).items() if isinstance(entry, str) else [(label_of(entry), entry)]
        ):
            if label in found:
                raise SettingError(f"{label} is given twice; leave one out")
            found[label] = method
    return found


def _labelled(
    models: Networks, methods: Mapping[str, Method | Control | None]
) -> Iterator[tuple[str, Network, Method | Control | None]]:
    """The label, network and method of each run. With one network, the label is the method; else network and method."""
    if isinstance(models, Mapping):
        named = {name: as_text(model) for name, model in models.items()}
    else:
        every = [as_text(model) for model in networks_of(models)]
        twice = next((model for model in every if every.count(model) > 1), None)
        if twice is not None:
            raise SettingError(f"{twice} is given twice; leave one out")
        if len(every) == 1:
            yield from ((label, every[0], method) for label, method in methods.items())
            return
        named = {str(model): model for model in every}
    for name, network in named.items():
        for label, method in methods.items():
            yield name if label == DENSE else f"{name} {label}", network, method
