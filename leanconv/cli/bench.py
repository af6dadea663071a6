"""``leanconv bench``: how fast networks are here, in which runtime."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from leanconv.cli.options import Exclude, Json, Report, Size, Where, input_size
from leanconv.cli.output import command_line, say, show, show_json, write_page
from leanconv.core.errors import LeanconvError, SettingError

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

    What fails is a row that says why, and the others are timed; the exit code is 1 where nothing could be timed.
    """
    import torch

    from leanconv.inference.race import Entry, race

    if precision not in DTYPES:
        raise SettingError(f"--precision {precision} must be one of {', '.join(DTYPES)}")
    sizes = _batches(batches)
    networks, unbuilt = _networks(([against] if against else []) + targets, methods, where, exclude)
    shape = _shape(size, networks)
    runtimes = _runtimes(names)
    dtype = getattr(torch, DTYPES[precision])
    rows: list[dict[str, Any]] = []
    for batch in sizes:
        example = torch.randn(batch, *shape, generator=torch.Generator().manual_seed(0)).to(device=device, dtype=dtype)
        found = race(networks, example, names=runtimes, threads=threads, seconds=seconds, say=say)
        counts = _counts(networks, shape)
        rows += [{"batch": batch, **counts[entry.network], **entry.to_json()} for entry in found]
        missing = [Entry(name, "", "", {}, None, failed=reason) for name, reason in unbuilt.items()]
        rows += [{"batch": batch, "params": None, "macs": None, "weight_bytes": None, **e.to_json()} for e in missing]
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
    if not any(row.get("latency_ms") for row in rows):
        raise typer.Exit(1)


def _batches(text: str) -> list[int]:
    try:
        found = [int(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or min(found) < 1:
        raise SettingError(f"--batch {text!r} must be whole numbers separated by commas: 1,16")
    return found


def _runtimes(text: str) -> list[str]:
    from leanconv.timing.runtimes import RUNTIMES, available

    if text == "all":
        return [name for name in RUNTIMES if available(name)]
    return [part.strip() for part in text.split(",") if part.strip()]


def _networks(
    targets: list[str], methods: str, where: list[str] | None, exclude: list[str] | None
) -> tuple[dict[str, nn.Module], dict[str, str]]:
    """Every target under every method; and those that could not be built, with the reason."""
    from leanconv.conversion.apply import convert, plan_of
    from leanconv.conversion.methods import parse_methods
    from leanconv.conversion.useful import stem, useful_plan
    from leanconv.core.base import input_size_of
    from leanconv.files.target import open_target

    networks: dict[str, nn.Module] = {}
    unbuilt: dict[str, str] = {}
    first: LeanconvError | None = None
    for target in targets:
        model: nn.Module | None = None
        for method in parse_methods(methods).values():
            name = target if method is None else f"{target} {method.label()}"
            if name in networks or name in unbuilt:
                raise SettingError(f"{name} is given twice; leave one out")
            try:
                model = model or open_target(target)
                lean = model
                if method is not None:
                    if plan_of(model) is not None:
                        raise SettingError(f"{target} is lean already; time it without --methods")
                    kept = (*(exclude or ()), stem(model))
                    lean = convert(model, useful_plan(model, method, where or "*", kept, input_size_of(model)))
            except LeanconvError as error:
                first, unbuilt[name] = first or error, str(error)
            else:
                networks[name] = lean
    if not networks and first is not None:
        raise first
    return networks, unbuilt


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
    from leanconv.deploy.formats import unique_bytes

    found: dict[str, dict[str, Any]] = {}
    for name, model in networks.items():
        try:
            found[name] = counts(model, shape)
        except LeanconvError as error:  # it asks for what the measurement has and a count has not
            say(f"{name}: MACs are not known: {error}")
            found[name] = {
                "params": sum(parameter.numel() for parameter in model.parameters()),
                "macs": None,
                "weight_bytes": unique_bytes([*model.parameters(), *model.buffers()]),
            }
    return found


def _summary(rows: list[dict[str, Any]], settings: dict[str, Any]) -> dict[str, Any]:
    from leanconv.core.machine import provenance
    from leanconv.timing.runtimes import versions

    head = provenance(command_line())
    head["versions"] |= versions()
    rounds = max((row.get("rounds") or 0 for row in rows), default=0)
    return {**head, "kind": "latency", "settings": settings, "n": rounds, "seeds": [0], "rows": rows}
