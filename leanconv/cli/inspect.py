"""``leanconv inspect``: what a method would do to a network, before anything is trained or downloaded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from leanconv.cli import layer_latency
from leanconv.cli.options import (
    DataRoot,
    Exclude,
    FasterOnly,
    Json,
    Method,
    Pretrained,
    Report,
    Size,
    Target,
    Where,
    input_size,
)
from leanconv.cli.output import command_line, show, show_json, write_page
from leanconv.core.errors import SettingError

if TYPE_CHECKING:
    from pathlib import Path

    from rich.table import Table
    from torch import nn

    from leanconv.analyse.redundancy import Redundancy
    from leanconv.conversion.plan import Plan
    from leanconv.core.count import Count
    from leanconv.core.meta import InputSize


def inspect(
    target: Target,
    method: Method = "dense",
    where: Where = None,
    exclude: Exclude = None,
    size: Size = None,
    latency: Annotated[
        bool, typer.Option("--latency", help="Measure each layer here, dense and lean, and predict the network's time.")
    ] = False,
    faster_only: FasterOnly = False,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Images a call when measuring.")] = 1,
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="CPU threads. Default: torch's.")] = None,
    runtime: Annotated[
        str, typer.Option("--runtime", help="What to measure with: eager, openvino, onnxruntime.")
    ] = "eager",
    ratios: Annotated[
        str | None,
        typer.Option(
            "--ratios", metavar="DATA", help="Suggest a ratio of split for each layer, from its maps on test images."
        ),
    ] = None,
    data_root: DataRoot = None,
    pretrained: Pretrained = False,
    report: Report = None,
    as_json: Json = False,
) -> None:
    """Show which convolutions of TARGET would convert, which stay dense and why, and what that saves.

    Needs no weights. Everything that --where matches converts unless --exclude names it, the first convolution too.
    A folder with a lean network is shown as it was converted.
    """
    from leanconv.conversion.apply import convert, plan_of
    from leanconv.conversion.methods import parse_method
    from leanconv.conversion.plan import plan as make_plan
    from leanconv.core.base import input_size_of
    from leanconv.core.task import get_task
    from leanconv.files.target import open_target, open_without_weights
    from leanconv.models.create import rebuild_base

    asked = parse_method(method)
    model = open_without_weights(target)
    plan = plan_of(model)
    trained = input_size_of(model) if get_task(model) is not None else None
    shape = input_size(size) or trained or (plan and plan.input_size) or input_size_of(model)
    dense: nn.Module | None = model
    lean = model
    if plan is not None:
        if asked is not None:
            raise SettingError(f"{target} is lean already; inspect it without --method, or name the dense network")
        dense = rebuild_base(model)
    elif asked is not None:
        if shape is None:
            raise SettingError(f"{target} does not say what images it takes; give --input-size channels,height,width")
        plan = make_plan(model, asked, where or "*", exclude=exclude or (), input_size=shape)
        lean = convert(model, plan) if plan.groups else model
    measured: dict[str, Any] = {}
    if latency or faster_only:
        if asked is None or plan is None or shape is None:
            raise SettingError(
                "--latency and --faster-only measure what a method would do; give a dense TARGET and --method"
            )
        settings = {"batch": batch, "threads": threads, "runtime": runtime}
        times = layer_latency.times_of(plan, settings)
        if faster_only:
            from leanconv.search.faster import faster_only as without_slower

            plan = without_slower(plan, times)
            lean = convert(model, plan) if plan.groups else model
            left = {site.name for group in plan.groups for site in group.sites}
            times = [time for time in times if time.name in left]
        if latency:
            both = [open_target(target), open_target(target)]
            both[1] = convert(both[1], plan) if plan.groups else both[1]
            measured["latency"] = {**settings, **layer_latency.of_network(both[0], both[1], times, shape, settings)}
            measured["times"] = {time.name: time for time in times}
    found = {"target": target, "input_size": shape and list(shape)} | describe(dense, lean, plan, shape)
    if latency:
        found["latency"] = measured["latency"]
        for layer in found["layers"]:
            time = measured["times"].get(layer["name"])
            layer |= {
                "dense_ms": time and time.dense_ms,
                "lean_ms": time and time.lean_ms,
                "form": time and time.form,
                "slower": time and time.slower,
            }
    suggested = [] if ratios is None else _ratios(target, ratios, data_root, pretrained)
    if ratios is not None:
        found["ratios"] = [one.to_json() for one in suggested]
    if report is not None:
        from leanconv.report.conversion_tables import HEADS, layer_cells
        from leanconv.report.page import table_page

        heads, lines = (*HEADS, "ms", "after"), [layer_cells(layer) for layer in found["layers"]]
        lines = [[*cells, *["–"] * (len(heads) - len(cells))] for cells in lines]
        said = " ".join([_summary(found), *_prediction(found)])
        facts = {"command": command_line()}
        write_page(table_page(target, "leanconv inspect", heads, lines, notes=said, left=3, summary=facts), report)
    if as_json:
        show_json(found)
    else:
        show(_table(found), _summary(found), *_prediction(found), *_ratio_table(suggested))


def _ratios(target: str, data: str, data_root: Path | None, pretrained: bool) -> list[Redundancy]:
    """How redundant the maps are that each convolution reads; on the weights of a folder or published ones."""
    from leanconv.analyse.redundancy import redundancies
    from leanconv.cli.analyses import Asked
    from leanconv.cli.images import open_images
    from leanconv.files.target import is_saved, open_target

    if not is_saved(target) and not pretrained:
        raise SettingError(
            f"--ratios looks at what a trained network sees: take a folder, or {target} with --pretrained"
        )
    model = open_target(target, pretrained=pretrained).eval()
    images = Asked({target: model}, (), open_images(data, data_root, False, run=target), None, 32, (), 0).images()
    return redundancies(model, images)


def _ratio_table(found: list[Redundancy]) -> list[Table]:
    from leanconv.cli.analyses import MAPS, maps_row
    from leanconv.report.tables import rich_of

    note = "Maps count as near-duplicates from an absolute correlation of 0.9 on, over 32 images."
    return [rich_of(MAPS, [maps_row(one) for one in found], note)] if found else []


def counts(model: nn.Module, shape: InputSize | None) -> dict[str, Any]:
    """params, macs and weight_bytes of `model`, and what the MACs leave out, if anything."""
    from leanconv.core.count import count

    return _figures(count(model, shape))


def _figures(counted: Count) -> dict[str, Any]:
    figures = {"params": counted.params, "macs": counted.macs, "weight_bytes": counted.bytes}
    return figures | ({"uncounted": list(counted.uncounted)} if counted.uncounted else {})


def describe(dense: nn.Module | None, lean: nn.Module, plan: Plan | None, shape: InputSize | None) -> dict[str, Any]:
    """The figures of a conversion: in total, and for each convolution of the plan in the network's order.

    `uncounted` names what the network does that the MACs leave out.
    """
    from leanconv.core.count import count
    from leanconv.report.conversion_tables import layers_of

    after = count(lean, shape)
    return {
        "before": None if dense is None else counts(dense, shape),
        "after": _figures(after),
        "uncounted": list(after.uncounted),
        "layers": [] if plan is None else layers_of(lean, plan),
    }


def _table(found: dict[str, Any]) -> Table:
    from rich.table import Table
    from rich.text import Text

    from leanconv.report.conversion_tables import HEADS, layer_cells
    from leanconv.report.tables import integer, macs

    image = " of " + "x".join(map(str, found["input_size"])) if found["input_size"] else ""
    table = Table(
        caption=f"MACs for one image{image}; 1 MAC = one multiply-add. A shared weight is counted where it is first used.",
        caption_justify="left",
    )
    timed = "latency" in found
    for head in (*HEADS, *(("ms", "after") if timed else ())):
        table.add_column(
            head, justify="left" if head in ("Layer", "Convolution", "Becomes") else "right", overflow="fold"
        )
    for layer in found["layers"]:
        table.add_row(*map(Text, layer_cells(layer)), style="red" if layer.get("slower") else None)
    before, after = found["before"] or {}, found["after"]
    counts = [integer(before.get("params")), integer(after["params"]), macs(before.get("macs")), macs(after["macs"])]
    table.add_section()
    table.add_row("Whole network", "", "", *counts)
    return table


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
    parts = [f"{converted} of {len(layers)} convolutions convert"]
    for name, text in (("params", "parameters"), ("macs", "MACs"), ("weight_bytes", "weight bytes")):
        if before[name]:
            parts.append(f"{text} {before[name]:,} -> {after[name]:,} ({after[name] / before[name]:.2f})")
    if found["uncounted"]:
        parts.append(f"MACs leave out {', '.join(found['uncounted'])}")
    return "; ".join(parts)
