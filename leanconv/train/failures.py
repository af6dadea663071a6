"""What the machine does to a run, as one line."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from leanconv.core.errors import RunError, first_line


@contextlib.contextmanager
def failures() -> Iterator[None]:
    """Within the block, images are decoded and a network is run.

    Raises:
        RunError: memory ran out, or a process that decodes images was killed, mostly for that reason.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise RunError(f"{first_line(error)}; lower batch_size and start again in another folder") from error
    except (
        RuntimeError,
        ConnectionError,
        EOFError,
    ) as error:  # the last two where it ended while it handed an image over
        if isinstance(error, RuntimeError) and not str(error).startswith("DataLoader worker"):
            raise
        error.with_traceback(None)  # it would keep the other workers alive
        way_out = "if memory ran out, lower workers; --resume (resume=True) continues"
        raise RunError(f"a process that decodes images ended ({first_line(error)}); {way_out}") from error
