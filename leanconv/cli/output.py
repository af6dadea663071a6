"""Write data to standard output, and all other text to standard error."""

from __future__ import annotations

import json
import math
import os
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leanconv.core.errors import RunError
from leanconv.core.processes import leads
from leanconv.core.shown import plain

if TYPE_CHECKING:
    from rich.console import RenderableType

    from leanconv.report.page import Page
    from leanconv.report.result import Result

WIDTH = 200  # without a terminal: a table in a file or a pipe is not folded


def show(*parts: RenderableType) -> None:
    """Print tables and lines for a reader; of several processes, only the first prints them."""
    from rich.console import Console

    if not leads():
        return
    console = Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False, markup=False, emoji=False)
    for part in parts:
        if isinstance(part, str):
            console.print("\n".join(map(plain, part.split("\n"))), soft_wrap=True)
        else:
            console.print(part)


def show_json(value: Any) -> None:
    """Print one JSON value for a program; of several processes, only the first prints it.

    Raises:
        RunError: a number of the value is NaN or infinite.
    """
    place = next(_not_finite(value), None)
    if place is not None:
        raise RunError(
            f"{place[0]} of the result is {place[1]}, which JSON does not have; leave out --json to see the result"
        )
    if leads():
        print(json.dumps(value, indent=2, allow_nan=False))


def _not_finite(value: Any, where: str = "") -> Iterator[tuple[str, float]]:
    """The numbers that are NaN or infinite, with the keys that lead to them."""
    if isinstance(value, float) and not math.isfinite(value):
        yield where or "the value", value
    elif isinstance(value, dict | list | tuple):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _not_finite(item, f"{where}.{key}".strip("."))


def say(message: str) -> None:
    """Print a line about progress; of several processes, only the first prints it."""
    if leads():
        print(plain(message), file=sys.stderr, flush=True)


def write_page(page: Page, path: Path) -> None:
    """Write a page, complete or not at all, and print its path; of several processes, only the first writes."""
    from leanconv.core.atomic import write_text

    if not leads():
        return
    write_text(path, page.html())
    say(f"report: {path}")


def present(result: Result, report: Path | None, as_json: bool) -> None:
    """Print a result as tables or as JSON, and write its page if `report` is a path."""
    if report is not None:
        write_page(result.page(), report)
    if as_json:
        show_json(result.to_json())
    else:
        show(*result.tables(), *result.sentences())


def earlier_run(out: Path, resume: bool, key: str = "test") -> Callable[[], None]:
    """Say that --resume finds no run in `out`. What is returned says at the end that the run was finished before.

    Args:
        out: the folder of the run.
        resume: --resume was given.
        key: what a finished run has in its summary.

    >>> earlier_run(Path("missing"), False)()
    """
    from leanconv.train.once import RUN_FILE, finished

    if resume and not (out / RUN_FILE).exists():
        say(f"leanconv: --resume: {out} holds no run, so this one starts anew")
    earlier = finished(out, key) is not None
    return lambda: say(f"leanconv: {out} was finished earlier; nothing was trained") if earlier else None


def measuring(done: int, total: int) -> None:
    """Show on a terminal how many layers are measured."""
    _counted("measuring layers", done, total)


def fitting(done: int, total: int) -> None:
    """Show on a terminal how many groups of layers are fitted."""
    _counted("fitting groups of layers", done, total)


def _counted(what: str, done: int, total: int) -> None:
    if sys.stderr.isatty():
        print(f"\r{what}: {done}/{total}", end="\n" if done == total else "", file=sys.stderr, flush=True)


def command_line(*, portable: bool = False) -> str:
    """The command line of this process, which can be typed again.

    Args:
        portable: write absolute paths relative to the working folder. Shared results then do not show the folders of
            the machine.
    """
    typed = sys.argv[1:]
    if portable:
        typed = [os.path.relpath(argument) if os.path.isabs(argument) else argument for argument in typed]
    return shlex.join(["leanconv", *typed])
