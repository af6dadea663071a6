"""Show layer by layer what a method would change in a network, before anything is trained or downloaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from leanconv.analyse.duplicates import MAPS, Redundancy, maps_row, redundancies
from leanconv.conversion.apply import convert, plan_of
from leanconv.conversion.plan import Include, Plan, Where, plan
from leanconv.core.count import count
from leanconv.core.errors import SettingError
from leanconv.core.meta import InputSize
from leanconv.core.method import Method
from leanconv.core.notes import get_task, input_size_of
from leanconv.inference.fast_path import slow_layers
from leanconv.models.create import rebuild_base
from leanconv.report.conversion_tables import HEADS, layer_cells, layers_of
from leanconv.report.page import Page, table_page
from leanconv.report.result import Result
from leanconv.report.tables import NONE, Row, integer, macs
from leanconv.report.text_table import TextTable
from leanconv.search import faster, network_times
from leanconv.timing.latency import Progress
from leanconv.timing.layers import LayerTime

TIMES = ("ms", "after")


@dataclass(frozen=True)
class Layers(Result):
    """The layers of a network: the operator that replaces each one, or the reason why it stays dense, with counts.

    Args:
        found: all values, as `to_json` returns them; with times if they were measured.
        plan: the plan of the conversion; None for a dense network without a method.
        ratios: the redundancy of the input maps of each convolution; () if no images were given.
        command: the command line that the page shows.
    """

    found: dict[str, Any]
    plan: Plan | None = None
    ratios: Sequence[Redundancy] = ()
    command: str = ""

    @property
    def rows(self) -> Sequence[Row]:
        rows: list[Row] = self.found["layers"]
        return rows

    def to_json(self) -> dict[str, Any]:
        return self.found

    def table(self) -> TextTable:
        """A row for each convolution, and a row for the whole network. Layers that get slower are red."""
        size, before, after = self.found["input_size"], self.found["before"] or {}, self.found["after"]
        image = " of " + "x".join(map(str, size)) if size else ""
        note = (
            f"MACs for one image{image}; 1 MAC = one multiply-add. A shared weight is counted where it is first used."
        )
        counts = [integer(before.get("params")), integer(after["params"])]
        counts += [macs(before.get("macs")), macs(after["macs"])]
        cells = self._cells("", ["Whole network", "", "", *counts])
        styles = [*("red" if layer.get("slower") else None for layer in self.rows), "bold"]
        return TextTable(self._heads(), cells, 3, note, styles=styles)

    def tables(self) -> Sequence[TextTable]:
        """The table of the layers, and a table of the ratios that their input maps suggest for `Split`."""
        note = "Two maps count as near-duplicates if their absolute correlation over 32 images is at least 0.9."
        more = [TextTable(MAPS, [maps_row(one) for one in self.ratios], 1, note)] if self.ratios else []
        return (self.table(), *self._off_fast_path(), *more)

    def _off_fast_path(self) -> list[TextTable]:
        """The layers that the runtime computes slowly because of their widths; none if no runtime was given."""
        slow = self.found.get("off_fast_path") or {"layers": {}}
        if not slow["layers"]:
            return []
        lines = [[name or "(root)", reason] for name, reason in slow["layers"].items()]
        note = f"Off the fast path of {slow['runtime']}, in float32 with AVX-512, in the form that an export has."
        return [TextTable(("Layer", "Why it is slow for its MACs"), lines, 2, note)]

    def sentences(self) -> Sequence[str]:
        """Sentences: what the conversion saves, and how the latency of the network changes."""
        return [_summary(self.found), *_slow(self.found), *_prediction(self.found)]

    def page(self) -> Page:
        said, facts = " ".join(self.sentences()), {"command": self.command}
        return table_page(
            self.found["target"],
            "leanconv inspect",
            self._heads(),
            self._cells(NONE),
            notes=said,
            left=3,
            summary=facts,
        )

    def _heads(self) -> Sequence[str]:
        return (*HEADS, *TIMES) if "latency" in self.found else HEADS

    def _cells(self, missing: str, *more: Sequence[str]) -> list[list[str]]:
        width = len(self._heads())
        lines = [*map(layer_cells, self.rows), *map(list, more)]
        return [[*line, *[missing] * (width - len(line))] for line in lines]


def inspect(
    model: nn.Module,
    method: Method | None = None,
    *,
    where: Where = "*",
    exclude: Where = (),
    include: Include | Sequence[Include] = (),
    align: int | None = None,
    input_size: InputSize | None = None,
    latency: bool = False,
    faster_only: bool = False,
    batch: int = 1,
    threads: int | None = None,
    runtime: str | None = None,
    images: Tensor | None = None,
    name: str | None = None,
    progress: Progress | None = None,
    command: str = "",
) -> Layers:
    """Show what `method` would change in `model`: which layers convert, which stay dense and why, and what is saved.

    The model is not changed. It may be on the meta device unless `latency` or `images` is given. For a lean network without a
    method, the result shows the conversion that produced it.

    >>> import leanconv as lc
    >>> found = inspect(lc.create_model("resnet20"), lc.Split(), exclude="conv1")
    >>> found.to_json()["before"]["params"], found.to_json()["after"]["params"]
    (272474, 105082)

    Args:
        model: a dense or a lean network.
        method: the method; None shows the network unchanged.
        where, exclude, include, align: see `leanconv.plan`.
        input_size: (channels, height, width) of one image; by default the size that the network declares.
        latency: measure each layer dense and lean on this device, and both networks, and compare with the prediction.
        faster_only: keep groups dense that are slower lean.
        batch, threads: settings of the measurement; see `leanconv.search.layer_times`.
        runtime: the runtime of the measurement, by default "eager". If it is given, the result marks the convolutions whose
            widths this runtime computes slowly: `leanconv.inference.fast_path`.
        images: (N, C, H, W) as the network takes them, to suggest a ratio of `Split` for each layer.
        name: the name of the network in the result; by default its class.
        progress: a function that is called with (done, total) before each layer is measured, and at the end.
        command: the command line that the page shows.

    Raises:
        SettingError: a method is given for a network that is lean already, the input size is unknown, or a measurement is
            requested without a method.
    """
    name, shape = name or type(model).__name__, _shape(model, input_size)
    dense, lean, made = _converted(
        model, method, shape, name, where=where, exclude=exclude, include=include, align=align
    )
    marked, runtime = runtime is not None, runtime or "eager"
    times: list[LayerTime] = []
    if latency or faster_only:
        if method is None or made is None:
            raise SettingError(
                "--latency and --faster-only (latency, faster_only) measure the effect of a method; give a dense network "
                "and a method"
            )
        times = faster.layer_times(made, batch=batch, threads=threads, runtime=runtime, progress=progress)
        if progress is not None:
            progress(len(times), len(times))
        if faster_only:
            made = faster.faster_only(made, times)
            lean = convert(model, made) if made.groups else model
            left = {site.name for group in made.groups for site in group.sites}
            times = [time for time in times if time.name in left]
    found = {"target": name, "input_size": shape and list(shape)} | describe(dense, lean, made, shape)
    if latency and shape is not None:
        settings = {"batch": batch, "threads": threads, "runtime": runtime}
        measured = network_times(model, lean, times, shape, batch=batch, threads=threads, runtime=runtime)
        found["latency"] = {**settings, **measured}
        _note_times(found["layers"], times)
    if marked:
        slow = slow_layers(lean, runtime)
        found["off_fast_path"] = {"runtime": runtime, "layers": slow}
        for layer in found["layers"]:
            layer["off_fast_path"] = slow.get(layer["name"])
    suggested = [] if images is None else redundancies(model, images)
    if images is not None:
        found["ratios"] = [one.to_json() for one in suggested]
    return Layers(found, made, suggested, command)


def _converted(
    model: nn.Module, method: Method | None, shape: InputSize | None, name: str, **chosen: Any
) -> tuple[nn.Module | None, nn.Module, Plan | None]:
    """The dense network, the lean one, and the plan between them."""
    made = plan_of(model)
    if made is not None:
        if method is not None:
            raise SettingError(
                f"{name} is lean already; inspect it without --method (method), or name the dense network"
            )
        return rebuild_base(model), model, made
    if method is None:
        return model, model, None
    if shape is None:
        raise SettingError(
            f"{name} does not say what images it takes; give --input-size (input_size) channels,height,width"
        )
    made = plan(model, method, input_size=shape, **chosen)
    return model, convert(model, made) if made.groups else model, made


def _shape(model: nn.Module, given: InputSize | None) -> InputSize | None:
    """The given input size; else the size of the training, of the plan, or of the network's declaration."""
    made = plan_of(model)
    trained = input_size_of(model) if get_task(model) is not None else None
    return given or trained or (made and made.input_size) or input_size_of(model)


def describe(dense: nn.Module | None, lean: nn.Module, plan: Plan | None, shape: InputSize | None) -> dict[str, Any]:
    """The counts of a conversion: in total, and for each convolution of the plan, in the order of the network.

    `uncounted` names the operations whose multiply-adds are not in the MACs.
    """
    after = count(lean, shape)
    return {
        "before": None if dense is None else count(dense, shape).to_json(),
        "after": after.to_json(),
        "uncounted": list(after.uncounted),
        "layers": [] if plan is None else layers_of(lean, plan),
    }


def _note_times(layers: Sequence[dict[str, Any]], times: Sequence[LayerTime]) -> None:
    """Add the times of each layer to its entry; None for a layer that was not measured."""
    measured = {time.name: time for time in times}
    for layer in layers:
        time = measured.get(layer["name"])
        layer |= {key: time and getattr(time, key) for key in ("dense_ms", "lean_ms", "form", "slower")}


def _slow(found: dict[str, Any]) -> list[str]:
    slow = found.get("off_fast_path")
    if slow is None:
        return []
    count = len(slow["layers"]) or "no"
    return [f"{count} convolutions are off the fast path of {slow['runtime']}"]


def _prediction(found: dict[str, Any]) -> list[str]:
    if "latency" not in found:
        return []
    latency = found["latency"]
    if "failed" in latency:
        return [f"the network could not be timed: {latency['failed']}"]
    slower = [layer["name"] for layer in found["layers"] if layer.get("slower")]
    text = (
        f"batch {latency['batch']}, {latency['runtime']}, both optimized for this machine: dense {latency['dense_ms']:.2f} ms, "
        f"lean {latency['lean_ms']:.2f} ms ({latency['ratio']:.2f}); predicted from the layers {latency['predicted_ms']:.2f} ms "
        f"({latency['predicted_off_pct']:+.0f} %)"
    )
    marked = f"{len(slower)} layers get slower: {', '.join(slower)}; --faster-only keeps them dense" if slower else ""
    return [text, marked] if slower else [text]


def _summary(found: dict[str, Any]) -> str:
    before, after, layers = found["before"], found["after"], found["layers"]
    if not layers or before is None:
        return f"{found['target']}: {after['params']:,} parameters"
    converted = sum(layer["kept_because"] is None for layer in layers)
    linear = any(layer["conv"].startswith("linear") for layer in layers)
    parts = [f"{converted} of {len(layers)} {'layers' if linear else 'convolutions'} convert"]
    for name, text in (("params", "parameters"), ("macs", "MACs"), ("weight_bytes", "weight bytes")):
        if before[name]:
            parts.append(f"{text} {before[name]:,} -> {after[name]:,} ({after[name] / before[name]:.2f})")
    if found["uncounted"]:
        parts.append(f"MACs leave out {', '.join(found['uncounted'])}")
    return "; ".join(parts)
