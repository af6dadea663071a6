"""Remember measured times: in memory, and in a file in the user's cache."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import torch
from torch import Tensor

from leanconv.core.atomic import write_json
from leanconv.core.errors import LeanconvWarning, SettingError, first_line
from leanconv.core.layout import is_channels_last
from leanconv.core.machine import describe_cpu
from leanconv.core.reading import parse_json
from leanconv.core.settings import check_path
from leanconv.timing.runtimes import software

VERSION = 2  # 1 had no norms behind the layers; a file of another version is read as empty


class TimeStore:
    """Measured times in a file that several processes may read.

    They are by (runtime, device, versions, threads, dtype, layout, shape, layer), see `key_of`.

    Args:
        path: the file; None keeps the times in memory only.

    Raises:
        SettingError: `path` is no path, or a folder.

    >>> TimeStore(None).times
    {}
    """

    def __init__(self, path: str | Path | None) -> None:
        path = None if path is None else check_path("cache", path)
        if path is not None and path.is_dir():
            raise SettingError(f"cache={str(path)!r} is a folder; give a file, such as {str(path / 'forms.json')!r}")
        self.path = path
        self.times = {} if path is None else _read(path)

    def write(self) -> None:
        """Write the times to the file, beside those that other processes wrote since it was read.

        Where it cannot be written, a warning says so: the measurement itself was made.
        """
        if self.path is None:
            return
        from filelock import FileLock

        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(self.path.with_name(f".{self.path.name}.lock")):
                kept = _read(self.path)
                both = {key: kept.get(key, {}) | self.times.get(key, {}) for key in {**kept, **self.times}}
                write_json(self.path, {"version": VERSION, "times_ms": both})
        except (OSError, NotImplementedError, SettingError) as error:  # the second: a system without locks
            said = f"measured times are not kept, because {self.path} cannot be written ({first_line(error)})"
            warnings.warn(f"{said}; name another file with cache=, or None", LeanconvWarning, stacklevel=3)


def _read(path: Path) -> dict[str, dict[str, float]]:
    """The times in a file; none where there is no file of this version."""
    try:
        found = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    times = found.get("times_ms") if isinstance(found, dict) and found.get("version") == VERSION else None
    return {key: value for key, value in times.items() if isinstance(value, dict)} if isinstance(times, dict) else {}


def default_store() -> Path:
    """The default file: ``leanconv/forms.json`` in the user's cache (``XDG_CACHE_HOME``, or else ``~/.cache``)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "leanconv" / "forms.json"


def key_of(name: str, example: Tensor, runtime: str, threads: int) -> str:
    """One line with everything that a measured time depends on.

    Args:
        name: the module and its settings.
        example: an input.
        runtime: one of `leanconv.timing.runtimes.RUNTIMES`.
        threads: CPU threads.
    """
    layout = "channels_last" if is_channels_last(example) else "contiguous"
    shape = "x".join(map(str, example.shape))
    place = f"{_device(example.device)}, {software(runtime)}"
    return " | ".join([runtime, place, str(threads), str(example.dtype), layout, shape, name])


def _device(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else describe_cpu()
