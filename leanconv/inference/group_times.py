"""Time against the number of groups at fixed MACs: a grouped convolution, and methods in all their forms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import nn

from leanconv.core.copying import copied
from leanconv.core.errors import SettingError
from leanconv.core.machine import provenance
from leanconv.core.meta import InputSize
from leanconv.core.method import Method
from leanconv.core.modes import in_eval
from leanconv.core.operator import ConvOp
from leanconv.core.settings import check_choice
from leanconv.core.spec import ConvSpec
from leanconv.inference.bench import PRECISIONS
from leanconv.report import latency_tables
from leanconv.report.page import Page, table_page
from leanconv.report.result import Result
from leanconv.report.tables import Row
from leanconv.report.text_table import TextTable
from leanconv.timing.latency import Latency, measure_latency

COUNTS = (1, 2, 4, 8, 16, 32)
INPUT_SIZE = (2048, 56, 56)  # of the figure


@dataclass(frozen=True)
class GroupTimes(Result):
    """Measured times: a row for each number of groups and each form.

    Args:
        summary: the measurement: the machine, the settings and the rows.
    """

    summary: dict[str, Any]

    @property
    def rows(self) -> Sequence[Row]:
        rows: list[Row] = self.summary["rows"]
        return rows

    def table(self) -> TextTable:
        cells = latency_tables.texts_of_groups(self.rows)
        return TextTable(latency_tables.GROUP_HEADS, cells, ("Form",), latency_tables.GROUP_NOTE)

    def page(self) -> Page:
        title = "Time against the number of groups at fixed MACs"
        table = self.table()
        said = "leanconv bench --figure groups"
        return table_page(title, said, table.heads, table.cells, notes=table.note, summary=self.summary)

    def to_json(self) -> dict[str, Any]:
        return self.summary


def group_times(
    counts: Sequence[int] = COUNTS,
    methods: Sequence[Method | type[Method] | None] = (),
    *,
    input_size: InputSize | None = None,
    filters: int = 64,
    kernel_size: int = 3,
    batch: int | Sequence[int] = 1,
    precision: str = "fp32",
    device: str = "cpu",
    threads: int | None = None,
    seconds: float = 10.0,
    command: str = "leanconv.inference.group_times.group_times(...)",
) -> GroupTimes:
    """Time a k x k convolution with B groups, and methods with B groups or blocks, for each B in `counts`.

    The input stays as it is, and B * `filters` filters keep the MACs equal. "grouped" is ``nn.Conv2d(groups=B)``. A method is
    timed in all forms that `leanconv.optimize` tries. All are timed interleaved.

    Args:
        counts: the numbers of groups B; 1, the ordinary convolution, is always timed.
        methods: classes, or methods with their default settings; None is the grouped convolution. The first setting is the
            number of groups or blocks, which divides the MACs.
        input_size: (channels, height, width) of the input; None takes the figure's 2048, 56, 56.
        filters: the number of filters at B = 1; the paper does not give it.
        kernel_size: k; the paper does not give it.
        batch, precision, device, threads, seconds: see `leanconv.bench`; only one batch.
        command: the command that the result names as its origin.

    Raises:
        SettingError: a number of groups does not divide the channels, there are several batches, or a method has settings, or
            other MACs with B groups than a grouped convolution.

    Source: Wang & Yu 2021, Fig. 3, measured there on an RTX 2080 Ti with tied blocks.
    """
    check_choice("precision", precision, tuple(PRECISIONS))
    batches = [batch] if isinstance(batch, int) else list(batch)
    if len(batches) != 1:
        raise SettingError(f"--figure groups takes one --batch, and {batches} are {len(batches)}")
    input_size = input_size or INPUT_SIZE
    channels = input_size[0]
    for count in counts:
        if count < 1 or channels % count:
            raise SettingError(f"groups={count} must divide the {channels} channels of the input")
    kinds = [_kind(method) for method in methods if method is not None]
    modules: dict[tuple[int, str], nn.Module] = {}
    for count in dict.fromkeys((1, *counts)):
        kernel, pad = (kernel_size, kernel_size), (kernel_size // 2, kernel_size // 2)
        spec = ConvSpec(channels, filters * count, kernel, padding=pad, bias=False)
        if count == 1:
            modules[1, "ordinary"] = nn.Conv2d(**spec.kwargs())
            continue
        modules[count, "grouped"] = nn.Conv2d(**spec.kwargs() | {"groups": count})
        for kind in kinds:
            for form, module in _forms(kind, spec, count, input_size[1:]).items():
                modules[count, f"{kind.name}, {form}"] = module
    found = measure_latency(
        {f"{form} {count}": module for (count, form), module in modules.items()}, input_size,
        batch=batches[0], device=device, dtype=PRECISIONS[precision], threads=threads, seconds=seconds,
    )  # fmt: skip
    work = channels * filters * kernel_size**2 * input_size[1] * input_size[2]
    rows = [_row(*key, filters, work, time) for key, time in zip(modules, found, strict=True)]
    settings = {
        "methods": [kind.name for kind in kinds], "input_size": list(input_size), "filters": filters,
        "kernel_size": kernel_size, "batch": batches[0], "precision": precision, "device": device,
        "threads": threads or torch.get_num_threads(),
    }  # fmt: skip
    head = provenance(command)
    return GroupTimes(
        {**head, "kind": "group_times", "settings": settings, "n": found[0].rounds, "seeds": [0], "rows": rows}
    )


def _kind(method: Method | type[Method]) -> type[Method]:
    if isinstance(method, type):
        return method
    if method != type(method)():
        raise SettingError(
            f"{method.label()}: --figure groups chooses the settings; give the name alone, {method.name}"
        )
    return type(method)


def _forms(kind: type[Method], spec: ConvSpec, count: int, out_hw: tuple[int, int]) -> dict[str, nn.Module]:
    """The operator of a method with `count` groups or blocks, in each of its forms."""
    if not fields(kind):
        raise SettingError(f"{kind.name} has no setting that could be the number of groups; leave it out")
    method = kind.from_settings({fields(kind)[0].name: count})
    if (reason := method.reject(spec)) is not None:
        raise SettingError(f"{method.label()} cannot be timed: {reason}")
    found, wanted = method.macs([spec], 0, out_hw), spec.macs(out_hw) // count
    if found != wanted:
        raise SettingError(
            f"{method.label()} has {found:,} MACs where {count} groups have {wanted:,}; give a method whose first setting "
            "divides the MACs"
        )
    (operator,) = method.build([spec])
    assert isinstance(operator, ConvOp)
    return {form: copied(make()) for form, make in in_eval(operator).inference_forms(None).items()}


def _row(count: int, form: str, filters: int, work: int, time: Latency) -> Row:
    times = {key: value for key, value in asdict(time).items() if key != "name"}
    return {"groups": count, "form": form, "filters": filters * count, "macs": work, **times}
