"""``leanconv bench``: how fast networks are here, in which runtime."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from leanconv.cli.options import Exclude, Json, Report, Size, Where, input_size
from leanconv.cli.output import command_line, say, show, show_json, write_page
from leanconv.core.errors import SettingError

if TYPE_CHECKING:
    from torch import nn

    from leanconv.core.meta import InputSize

DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


def bench(
    targets: Annotated[
        list[str],
        typer.Argument(
            metavar="TARGET...", help="One network or several; the first is what the others are held against."
        ),
    ],
    methods: Annotated[
        str, typer.Option("--methods", help='Each TARGET under each of them: "dense,tied_block(blocks=2)".')
    ] = "dense",
    against: Annotated[
        str | None, typer.Option("--against", metavar="TARGET", help="A network or a folder to hold them all against.")
    ] = None,
    batches: Annotated[str, typer.Option("--batch", metavar="N,N", help="Images a call, one table each.")] = "1",
    names: Annotated[
        str, typer.Option("--runtimes", help="eager, compile, onnxruntime, openvino; or all that are installed.")
    ] = "eager",
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="CPU threads. Default: torch's.")] = None,
    precision: Annotated[str, typer.Option("--precision", help="fp32, bf16 or fp16.")] = "fp32",
    device: Annotated[str, typer.Option("--device", help="cpu or cuda.")] = "cpu",
    seconds: Annotated[float, typer.Option("--seconds", min=0.1, help="Of measuring, a table.")] = 10.0,
    where: Where = None,
    exclude: Exclude = None,
    size: Size = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE", help="Write the rows there, as JSON.")
    ] = None,
    report: Report = None,
    as_json: Json = False,
) -> None:
    """Time networks as they are and optimized for this device, in each runtime, all interleaved.

    Ratios are to the fastest entry of the first network: its best against the best of the others. The first convolution
    of a network stays dense. Weights are random: they do not matter here.
    """
    import torch

    from leanconv.inference.race import race

    if precision not in DTYPES:
        raise SettingError(f"--precision {precision} must be one of {', '.join(DTYPES)}")
    sizes = _batches(batches)
    networks = _networks(([against] if against else []) + targets, methods, where, exclude)
    shape = _shape(size, networks)
    runtimes = _runtimes(names)
    dtype = getattr(torch, DTYPES[precision])
    rows: list[dict[str, Any]] = []
    for batch in sizes:
        example = torch.randn(batch, *shape, generator=torch.Generator().manual_seed(0)).to(device=device, dtype=dtype)
        found = race(networks, example, names=runtimes, threads=threads, seconds=seconds, say=say)
        counts = _counts(networks, shape)
        rows += [{"batch": batch, **counts[entry.network], **entry.to_json()} for entry in found]
    settings = {
        "input_size": list(shape),
        "precision": precision,
        "device": device,
        "threads": threads or torch.get_num_threads(),
    }
    summary = _summary(rows, settings)
    if out is not None:
        from leanconv.core.atomic import write_json

        write_json(out, summary)
        say(f"written: {out}")
    if report is not None:
        from leanconv.report.page import of_latency

        write_page(of_latency(summary), report)
    if as_json:
        show_json(summary)
    else:
        from leanconv.report.latency_tables import rich_table

        image = "x".join(map(str, shape))
        title = f"{image}, {precision}, {device}, {settings['threads']} threads"
        show(rich_table(rows, title))


def _batches(text: str) -> list[int]:
    try:
        found = [int(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or min(found) < 1:
        raise SettingError(f"--batch {text!r} must be whole numbers separated by commas: 1,16")
    return found


def _runtimes(text: str) -> list[str]:
    from leanconv.bench.runtimes import RUNTIMES, available

    if text == "all":
        return [name for name in RUNTIMES if available(name)]
    return [part.strip() for part in text.split(",") if part.strip()]


def _networks(
    targets: list[str], methods: str, where: list[str] | None, exclude: list[str] | None
) -> dict[str, nn.Module]:
    from leanconv.cli.methods import parse_methods
    from leanconv.cli.target import make_useful_plan, open_target, stem
    from leanconv.conversion.apply import convert, plan_of
    from leanconv.core.base import input_size_of

    networks: dict[str, nn.Module] = {}
    for target in targets:
        model = open_target(target)
        for method in parse_methods(methods).values():
            if method is not None and plan_of(model) is not None:
                raise SettingError(f"{target} is lean already; time it without --methods")
            name = target if method is None else f"{target} {method.label()}"
            if name in networks:
                raise SettingError(f"{name} is given twice; leave one out")
            lean = model
            if method is not None:
                kept = (*(exclude or ()), stem(model))
                lean = convert(model, make_useful_plan(model, method, where, kept, input_size_of(model)))
            networks[name] = lean
    return networks


def _shape(size: str | None, networks: dict[str, nn.Module]) -> InputSize:
    from leanconv.core.base import input_size_of

    given = input_size(size)
    shapes = {name: given or input_size_of(model) for name, model in networks.items()}
    found = set(shapes.values())
    if len(found) > 1 or None in found:
        raise SettingError(f"the networks are made for images of {found}; say which with --input-size")
    shape = found.pop()
    assert shape is not None
    return shape


def _counts(networks: dict[str, nn.Module], shape: InputSize) -> dict[str, dict[str, Any]]:
    from leanconv.cli.inspect import counts

    return {name: counts(model, shape) for name, model in networks.items()}


def _summary(rows: list[dict[str, Any]], settings: dict[str, Any]) -> dict[str, Any]:
    from leanconv.bench.runtimes import versions
    from leanconv.core.machine import provenance

    head = provenance(command_line())
    head["versions"] |= versions()
    rounds = max((row.get("rounds") or 0 for row in rows), default=0)
    return {**head, "kind": "latency", "settings": settings, "n": rounds, "seeds": [0], "rows": rows}
