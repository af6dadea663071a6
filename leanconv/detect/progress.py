"""How far a walk through photos is."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def counter(what: str, total: int, tell: Callable[[str], None]) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal; elsewhere `tell` is called with a line every tenth."""
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import Progress

        with Progress(console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(what, total=total)
            yield lambda done: bar.update(task, completed=done)
        return
    every = max(1, total // 10)
    yield lambda done: tell(f"{what}: {done}/{total}") if done % every == 0 or done == total else None
