"""A description of the machine and the software of a measurement, without host name, user name or path."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from leanconv.core.settings import check_choice
from leanconv.core.version import __version__

FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_bf16", "amx_int8", "asimd", "bf16", "sve")
BF16 = frozenset({"avx512_bf16", "amx_bf16", "bf16"})  # flags of CPUs that multiply in bfloat16
SCHEMA_VERSION = 1  # of results/schema.json
PACKAGES = ("torch", "torchvision", "timm", "lightning", "numpy")


def describe_machine() -> dict[str, Any]:
    """The machine and the software as plain JSON values; a value that cannot be determined is None.

    `cpu_flags` lists only the flags that decide which kernels run. `git` is the commit of leanconv's own checkout, with
    `dirty` true if the package differs from this commit. `git` is None for an installed copy.
    """
    info = _cpuinfo()
    return {
        "cpu": info["model"],
        "physical_cores": info["cores"],
        "usable_cpus": _usable_cpus(),
        "torch_threads": torch.get_num_threads(),
        "cpu_flags": info["flags"],
        "memory_gib": _memory_gib(),
        "gpu": _gpu(),
        "os": _system(),
        "python": platform.python_version(),
        "versions": {"leanconv": __version__} | {name: version_of(name) for name in PACKAGES},
        "git": _git(Path(__file__).parents[1]),
    }


def provenance(command: str) -> dict[str, Any]:
    """The date, machine, versions and command of a measurement: the beginning of each file in ``results/``.

    Args:
        command: the command line of the measurement.
    """
    machine = describe_machine()
    git = machine.pop("git") or {"commit": None, "dirty": None}
    return {
        "schema_version": SCHEMA_VERSION,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": git["commit"],
        "dirty": git["dirty"],
        "versions": {"python": machine.pop("python"), **machine.pop("versions")},
        "machine": machine,
        "command": command,
    }


def describe_cpu() -> str:
    """The CPU's model and the flags that decide which kernels run, in one line."""
    info = _cpuinfo()
    return " ".join([info["model"], *info["flags"]])


def device_of(asked: str) -> str:
    """The device that "auto", "cpu" or "cuda" means on this machine: "cuda" or "cpu".

    >>> device_of("cpu")
    'cpu'
    """
    return "cuda" if asked != "cpu" and torch.cuda.is_available() else "cpu"


def precision_name(asked: str) -> str:
    """The number format of a precision, as a sentence names it.

    >>> precision_name("bf16")
    'bfloat16'
    """
    return {"fp32": "float32", "bf16": "bfloat16"}[precision_of(asked)]


def precision_of(asked: str, device: str = "auto") -> str:
    """The precision that "auto", "fp32" or "bf16" means on a device: "fp32" or "bf16".

    "auto" is "bf16" on a GPU that computes in bfloat16, and on a CPU with instructions for it. Without them, torch emulates
    bfloat16: a training step of `fast_vgg` took 14 times as long as in float32 on a CPU with AVX2.

    Raises:
        SettingError: `asked` is none of these.

    >>> precision_of("fp32")
    'fp32'
    """
    check_choice("precision", asked, ("auto", "fp32", "bf16"))
    if asked != "auto":
        return asked
    if device_of(device) == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    return "bf16" if BF16.intersection(_cpuinfo()["flags"]) else "fp32"


def _cpuinfo(path: Path = Path("/proc/cpuinfo")) -> dict[str, Any]:
    """The CPU's model, number of physical cores and flags: from /proc/cpuinfo on Linux, otherwise from Python."""
    text = path.read_text() if path.exists() else ""
    entries = [
        {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in block.splitlines())}
        for block in text.strip().split("\n\n")
    ]
    first = entries[0]
    cores = {
        (entry["physical id"], entry["core id"]) for entry in entries if "core id" in entry and "physical id" in entry
    }
    present = (first.get("flags") or first.get("Features") or "").split()
    return {
        "model": first.get("model name") or platform.processor() or platform.machine(),
        "cores": len(cores) or os.cpu_count(),
        "flags": [flag for flag in FLAGS if flag in present],
    }


def _system() -> str:
    """The system and its release, such as "Linux 6.12", without the suffix of a build, which may name a site."""
    release = re.match(r"\d+(\.\d+)?", platform.release())
    return f"{platform.system()} {release.group()}" if release else platform.system()


def _usable_cpus() -> int | None:
    """The number of CPUs on which this process may run; in many containers, the machine has more CPUs."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, ValueError, OSError):
        return None


def _gpu() -> dict[str, Any] | None:
    if not torch.cuda.is_available():
        return None
    properties = torch.cuda.get_device_properties(0)
    driver = _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    return {
        "name": properties.name,
        "count": torch.cuda.device_count(),
        "memory_gib": round(properties.total_memory / 2**30, 1),
        "driver": driver.splitlines()[0] if driver else None,
        "cuda": torch.version.cuda,
    }


def version_of(package: str) -> str | None:
    """The version of an installed package, by its name in the index of packages; None if there is none.

    >>> version_of("no-such-package") is None
    True
    """
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git(folder: Path) -> dict[str, Any] | None:
    # An installed copy may be inside another repository: only a tracked package is a checkout
    if _output("git", "-C", str(folder), "ls-files", "--error-unmatch", "__init__.py") is None:
        return None
    commit = _output("git", "-C", str(folder), "rev-parse", "HEAD")
    changes = _output("git", "-C", str(folder), "status", "--porcelain", "--", ".")
    return {"commit": commit, "dirty": changes != ""} if commit else None


def _output(*command: str) -> str | None:
    """The output of `command`; None if the command does not exist or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
