"""Turn failures of the machine during a run into errors of one line."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import torch

from leanconv.core.errors import RunError, first_line

NOT_DETERMINISTIC = " does not have a deterministic implementation"  # torch's words
SIGNAL_SECONDS = 0.2  # the signal of a process that ended arrives within this time


@contextlib.contextmanager
def failures() -> Iterator[None]:
    """Turn failures inside the block, where images are decoded and a network runs, into errors of one line.

    Raises:
        RunError: memory ran out, or a process that decodes images was killed, mostly because memory ran out; or the run is
            `deterministic`, and torch has no deterministic algorithm for a layer.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise RunError(f"{first_line(error)}; lower batch_size and start again in another folder") from error
    except (
        RuntimeError,
        ConnectionError,
        EOFError,
    ) as error:  # the last two if the process ended while it passed an image
        if isinstance(error, RuntimeError) and NOT_DETERMINISTIC in str(error):
            layer = first_line(error).split(NOT_DETERMINISTIC)[0]
            raise RunError(
                f"deterministic=True: torch has no deterministic algorithm for {layer}; leave it out"
            ) from error
        if isinstance(error, RuntimeError) and not str(error).startswith("DataLoader worker"):
            raise
        if not isinstance(error, RuntimeError):  # torch raises once more when the signal of the ended process arrives
            with contextlib.suppress(RuntimeError):
                time.sleep(SIGNAL_SECONDS)
        error.with_traceback(None)  # the traceback would keep the other workers alive
        way_out = "if memory ran out, lower workers; --resume (resume=True) continues"
        raise RunError(f"a process that decodes images ended ({first_line(error)}); {way_out}") from error
