"""The gradients of shared weights during training."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from leanconv.analyse.figure import panels
from leanconv.core.errors import FileError
from leanconv.core.reading import parse_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FILE = "gradients.jsonl"


@dataclass(frozen=True)
class GradientFlow:
    """The gradients of the shared weights of a run.

    Args:
        tensors: the names of the shared weights, in the order of the network.
        steps: (T), the numbers of the recorded steps.
        largest, mean: (T, tensors), the maximum and the mean of the absolute gradient.
    """

    tensors: tuple[str, ...]
    steps: np.ndarray
    largest: np.ndarray
    mean: np.ndarray

    def to_json(self) -> dict[str, Any]:
        """For each tensor, the means over the steps, as plain values."""
        return {
            "steps": len(self.steps),
            "tensors": [
                {"name": name, "max": _finite(self.largest[:, i]), "mean": _finite(self.mean[:, i])}
                for i, name in enumerate(self.tensors)
            ],
        }


def _finite(values: np.ndarray) -> float | None:
    """The mean of `values`; None if it is not finite, because the run diverged."""
    mean = float(values.mean())
    return mean if np.isfinite(mean) else None


def read_gradients(folder: str | os.PathLike[str]) -> GradientFlow:
    """Read the gradients that a run with ``record_gradients`` (``--record-gradients``) wrote.

    Args:
        folder: the folder of the run.

    Raises:
        FileError: the folder has no such file, or the file is not valid.
    """
    path = Path(folder).expanduser() / FILE
    if not path.is_file():
        raise FileError(f"no {FILE} in {folder}; train a network with shared weights with --record-gradients")
    records: dict[int, dict[str, dict[str, float]]] = {}
    try:
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                record = parse_json(line)
            except ValueError:  # an incomplete line of a killed process
                continue
            records[int(record["step"])] = record["gradients"]  # a resumed run may have written a step twice
        names = tuple(next(iter(records.values())))
        steps = np.array(sorted(records))
        largest, mean = (
            np.array([[records[step][name][kind] for name in names] for step in sorted(records)])
            for kind in ("max", "mean")
        )
    except (ValueError, KeyError, TypeError, StopIteration) as error:
        raise FileError(
            f"{path} is not a valid record of gradients ({error!r}); train again with --record-gradients"
        ) from error
    return GradientFlow(names, steps, largest, mean)


def plot_gradients(runs: Mapping[str, GradientFlow]) -> Figure:
    """Draw the largest absolute gradients above and the mean ones below; a column for each run, with one scale."""
    figure, grid = panels(2, len(runs), 2.9, 2.3)
    for (label, flow), column in zip(runs.items(), grid.T, strict=True):
        for axes, values in zip(column, (flow.largest, flow.mean), strict=True):
            for i, name in enumerate(flow.tensors):
                axes.plot(flow.steps, values[:, i], linewidth=0.9, label=name.removesuffix(".weight"))
            axes.set_yscale("log")
        column[0].set_title(label, fontsize=9)
        column[1].set_xlabel("step")
    for row, what in zip(grid, ("max |gradient|", "mean |gradient|"), strict=True):
        low, high = min(a.get_ylim()[0] for a in row), max(a.get_ylim()[1] for a in row)
        for axes in row:
            axes.set_ylim(low, high)
        row[0].set_ylabel(what)
    grid[0][-1].legend(fontsize=6)
    return figure
