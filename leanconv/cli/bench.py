"""``leanconv bench``: the latency of networks on this machine, in each runtime."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from leanconv.cli.options import Exclude, Figure, Json, Report, Size, Where, input_size, refuse
from leanconv.cli.output import command_line, present, say
from leanconv.core.atomic import write_json
from leanconv.core.errors import SettingError

if TYPE_CHECKING:
    from leanconv.report.result import Result


def bench(
    targets: Annotated[
        list[str] | None,
        typer.Argument(metavar="TARGET...", help="One network or several; the others are compared with the first."),
    ] = None,
    methods: Annotated[
        str,
        typer.Option("--methods", help='Time TARGET, or the --figure, with each method: "dense,tied_block(blocks=2)".'),
    ] = "dense",
    against: Annotated[
        str | None,
        typer.Option("--against", metavar="TARGET", help="A network or a folder to compare all others with."),
    ] = None,
    batches: Annotated[
        str, typer.Option("--batch", metavar="N,N", help="Images in each call; one table for each number.")
    ] = "1",
    names: Annotated[
        str, typer.Option("--runtimes", help="eager, compile, onnxruntime, openvino; or all, for the installed ones.")
    ] = "eager",
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="CPU threads. Default: torch's.")] = None,
    precision: Annotated[str, typer.Option("--precision", help="fp32, bf16 or fp16.")] = "fp32",
    device: Annotated[str, typer.Option("--device", help="cpu or cuda.")] = "cpu",
    seconds: Annotated[float, typer.Option("--seconds", min=0.1, help="Seconds of measurement for each table.")] = 10.0,
    figure: Figure = None,
    where: Where = None,
    exclude: Exclude = None,
    size: Size = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE", help="Write the rows to this file, as JSON.")
    ] = None,
    report: Report = None,
    as_json: Json = False,
) -> None:
    """Time networks as they are and optimized for this device, in each runtime, with interleaved calls.

    Ratios compare with the fastest entry of the first network. The first convolution of a network stays dense. Weights are
    random, because they do not change the latency.

    If a network or a runtime fails, its row shows the reason, and the others are timed. The exit code is 1 if nothing could
    be timed.
    """
    from leanconv.conversion.methods import parse_methods
    from leanconv.files.target import open_target
    from leanconv.inference.bench import bench as measure
    from leanconv.inference.group_times import group_times

    every = [*([against] if against else []), *(targets or [])]
    if (figure is None) == (not every):
        raise SettingError("give a TARGET, or --figure groups without one")
    for target in (name for name in every if every.count(name) > 1):
        raise SettingError(f"{target} is given twice; leave one out")
    _check_files(out, report)
    unused = {"--runtimes": names != "eager", "--where": where, "--exclude": exclude}
    refuse("--figure groups", unused, figure is not None)
    timed: dict[str, Any] = {
        "batch": _batches(batches), "input_size": input_size(size), "precision": precision, "device": device, "threads": threads,
        "seconds": seconds, "command": command_line(),
    }  # fmt: skip
    given = list(parse_methods(methods).values())
    result: Result = group_times(methods=given, **timed) if figure is not None else measure(
        {target: partial(open_target, target) for target in every}, given,
        where=where or "*", exclude=exclude or (), runtimes=names, progress=say, **timed,
    )  # fmt: skip
    if out is not None:
        write_json(out, result.to_json())
        say(f"written: {out}")
    present(result, report, as_json)
    raise typer.Exit(figure is None and not any(row["latency_ms"] for row in result.rows))


def _check_files(*paths: Path | None) -> None:
    for path in (path for path in paths if path is not None and path.is_dir()):
        raise SettingError(f"{path} is a folder; give a file in it: {path / 'bench.json'}")


def _batches(text: str) -> list[int]:
    found = [int(part) if part.strip().isdecimal() else 0 for part in text.split(",")]
    if min(found) < 1:
        raise SettingError(f"--batch {text!r} must be whole numbers separated by commas: 1,16")
    return found
