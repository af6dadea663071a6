"""C++ files that are compiled when they are first needed, if the machine has a compiler; nothing depends on them."""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import shlex
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from leanconv.core.machine import describe_cpu

FLAGS = ("-O3", "-march=native", "-std=c++17", "-fopenmp", "-fno-math-errno", "-fno-trapping-math", "-fPIC", "-shared")
SECONDS = 120  # the longest compilation that is waited for
_log = logging.getLogger("leanconv")


@cache
def compiled(source: Path) -> ctypes.CDLL | None:
    """The functions of a C++ file with C names; None if it cannot be compiled here, with the reason in the log.

    The compiler is ``CXX``, or else ``c++``. The result is kept in the user's cache (``XDG_CACHE_HOME``, or else
    ``~/.cache``) for each source, compiler and processor. With ``LEANCONV_NATIVE=0`` nothing is compiled.

    Args:
        source: a file that includes only the standard library.
    """
    if os.environ.get("LEANCONV_NATIVE") == "0":
        return None
    command = [*shlex.split(os.environ.get("CXX") or "c++"), *FLAGS]
    try:
        return ctypes.CDLL(str(_library(source, command)))
    except (OSError, subprocess.SubprocessError) as error:
        _log.info("%s is not compiled (%s): torch's own operators compute instead, more slowly", source.name, error)
        return None


def _library(source: Path, command: list[str]) -> Path:
    """The compiled file, from the cache if it is there."""
    key = hashlib.sha256("\0".join([source.read_text("utf-8"), *command, describe_cpu()]).encode()).hexdigest()[:16]
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "leanconv" / "native"
    library = folder / f"{source.stem}-{key}.so"
    if library.exists():
        return library
    if shutil.which(command[0]) is None:
        raise OSError(f"there is no compiler {command[0]!r}")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as own:  # moved when complete: other processes may compile too
        made = Path(own, library.name)
        arguments = [*command, str(source), "-o", str(made)]
        subprocess.run(arguments, check=True, capture_output=True, timeout=SECONDS)
        os.replace(made, library)
    return library
