"""Compare networks: parameters, MACs, bytes and measured latency."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from leanconv.conversion.apply import plan_of
from leanconv.core.count import Count, count
from leanconv.core.errors import SettingError
from leanconv.core.meta import InputSize, own_dtype
from leanconv.core.notes import image_size, input_size_of
from leanconv.timing.latency import Latency, measure_latency


@dataclass(frozen=True)
class SummaryRow:
    """One network of a summary: its name, its counts, its latency (None if it was not measured) and the dtype of its weights."""

    name: str
    count: Count
    latency: Latency | None
    dtype: str = "float32"


@dataclass(frozen=True)
class Summary:
    """Rows to compare; `str` gives a table with ratios to the first row."""

    rows: tuple[SummaryRow, ...]
    input_size: InputSize | None
    batch: int

    def to_json(self) -> list[dict[str, Any]]:
        """A dict for each row: the counts, and the latency if it was measured."""
        return [
            {
                "name": row.name,
                "dtype": row.dtype,
                **asdict(row.count),
                **({} if row.latency is None else asdict(row.latency)),
            }
            for row in self.rows
        ]

    def __str__(self) -> str:
        first = self.rows[0].count
        table = [["network", "parameters", "stored", "MACs", "bytes"]]
        if self.rows[0].latency:
            table[0] += [f"ms (batch {self.batch})", "time ratio"]
        for row in self.rows:
            c = row.count
            line = [row.name, _against(c.params, first.params), f"{c.stored:,}"]
            line += ["?" if c.macs is None or first.macs is None else _against(c.macs, first.macs), f"{c.bytes:,}"]
            if row.latency:
                latency = row.latency
                line.append(f"{latency.median_ms:.2f} [{latency.q25_ms:.2f}, {latency.q75_ms:.2f}]")
                line.append(f"{latency.ratio:.2f} [{latency.ratio_q25:.2f}, {latency.ratio_q75:.2f}]")
            table.append(line)
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = []
        for line in table:
            cells = [line[0].ljust(widths[0])]
            cells += [cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)]
            lines.append("  ".join(cells))
        if self.rows[0].latency and {row.dtype for row in self.rows} != {"float32"}:
            lines.append("times: " + ", ".join(f"{row.name} in {row.dtype}" for row in self.rows))
        for row in self.rows:
            if row.count.uncounted:
                lines.append(f"MACs of {row.name} leave out {', '.join(row.count.uncounted)}")
        return "\n".join(lines)


def summary(
    *models: nn.Module, input_size: InputSize | None = None, batch: int = 1, latency: bool = True, seconds: float = 3.0
) -> Summary:
    """Count `models` and measure their latency, interleaved; print the result to see a table.

    1 MAC is one multiply-add, for one image. Latency is the median over rounds, with quartiles. Each network is timed in the
    dtype of its weights, which the table names where it is not float32.

    Args:
        input_size: (channels, height, width); default: the input size of the first model.
        batch: images in a forward pass, for the latency.
        latency: whether to measure; without a measurement, the models are only counted.
        seconds: seconds of measurement, for all models together.

    Raises:
        SettingError: there is no model, or no input size is known for the measurement.

    >>> import leanconv as lc
    >>> result = summary(lc.create_model("resnet20"), latency=False)
    >>> result.rows[0].name, result.rows[0].count.params
    ('CifarResNet', 272474)
    """
    if not models:
        raise SettingError("summary() needs at least one model")
    size = (
        input_size_of(models[0]) if input_size is None else image_size(input_size)
    )  # one for all, or the ratios would compare different images
    names = names_of(models)
    times: list[Latency | None] = [None] * len(models)
    if latency:
        named = dict(zip(names, models, strict=True))
        times = [*measure_latency(named, size, batch=batch, seconds=seconds, dtype=None)]
    rows = tuple(
        SummaryRow(name, count(model, size), time, str(own_dtype(model, torch.float32)).removeprefix("torch."))
        for name, model, time in zip(names, models, times, strict=True)
    )
    return Summary(rows, size, batch)


def names_of(models: Sequence[nn.Module]) -> list[str]:
    """The methods in each network's plan, or its class; equal names get a number.

    >>> names_of([nn.ReLU(), nn.ReLU(), nn.Sigmoid()])
    ['ReLU #1', 'ReLU #2', 'Sigmoid']
    """
    names = []
    for model in models:
        plan = plan_of(model)
        methods = list(dict.fromkeys(group.method.label() for group in plan.groups)) if plan else []
        names.append(" + ".join(methods[:2]) + (" + ..." if len(methods) > 2 else "") or type(model).__name__)
    return [f"{name} #{i + 1}" if names.count(name) > 1 else name for i, name in enumerate(names)]


def _against(value: int, first: int) -> str:
    return f"{value:,} ({value / first:.1%})" if first else f"{value:,}"
