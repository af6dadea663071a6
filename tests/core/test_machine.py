"""The machine description: what it holds, and what it must not."""

from __future__ import annotations

import json
import platform
import subprocess
from pathlib import Path

import pytest
import torch

from leanconv.core import machine
from leanconv.core.machine import _cpuinfo, _git, _system, describe_machine, precision_of

CPUINFO = """processor\t: {cpu}
model name\t: Example 9000 @ 2.0GHz
physical id\t: {socket}
core id\t\t: {core}
flags\t\t: fpu avx2 avx512f amx_bf16 avx512_bf16 secret_flag
"""


def test_says_what_matters() -> None:
    machine = describe_machine()
    assert machine["cpu"] and machine["physical_cores"] >= 1 and machine["usable_cpus"] >= 1
    assert machine["torch_threads"] == torch.get_num_threads()
    assert machine["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert set(machine["versions"]) >= {"leanconv", "torchvision", "timm", "lightning"}
    assert machine["memory_gib"] > 0
    assert machine["python"] == platform.python_version()
    assert (machine["gpu"] is not None) == torch.cuda.is_available()
    assert json.loads(json.dumps(machine)) == machine


def test_names_no_host_user_or_path(monkeypatch: pytest.MonkeyPatch) -> None:
    host = platform.node()
    monkeypatch.setattr(platform, "release", lambda: "6.12.3-build-of-my-site")
    monkeypatch.setattr(platform, "node", lambda: "my-host")
    for variable in ("LOGNAME", "USER", "USERNAME"):
        monkeypatch.setenv(variable, "my-name")
    assert _system() == f"{platform.system()} 6.12"
    text = json.dumps(describe_machine())
    assert not any(word in text for word in ("my-site", "my-host", "my-name"))
    assert host not in text.replace('"', " ").replace(",", " ").split()
    assert str(Path.cwd()) not in text and str(Path(torch.__file__).parent) not in text


def test_cores_are_counted_once(tmp_path: Path) -> None:
    """Two sockets of two cores, two threads each."""
    file = tmp_path / "cpuinfo"
    cpus = [(socket, core) for socket in (0, 1) for core in (0, 1)] * 2
    file.write_text("\n".join(CPUINFO.format(cpu=i, socket=s, core=c) for i, (s, c) in enumerate(cpus)) + "\n")
    info = _cpuinfo(file)
    assert info == {
        "model": "Example 9000 @ 2.0GHz",
        "cores": 4,
        "flags": ["avx2", "avx512f", "avx512_bf16", "amx_bf16"],
    }


def test_without_cpuinfo(tmp_path: Path) -> None:
    info = _cpuinfo(tmp_path / "none")
    assert info["cores"] and info["model"] and info["flags"] == []


def test_commit_of_a_checkout_only(tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        identity = (
            "-c",
            "user.name=t",
            "-c",
            "user.email=t@t",
            "-c",
            "commit.gpgsign=false",
            "-c",
            "core.hooksPath=none",
        )
        done = subprocess.run(
            ["git", *identity, "-C", str(tmp_path), *arguments], capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    assert _git(package) is None  # no repository
    git("init", "-q")
    (tmp_path / "other").write_text("")
    git("add", "other")
    git("commit", "-qm", "other")
    assert _git(package) is None  # inside somebody else's
    git("add", "package")
    git("commit", "-qm", "package")
    (tmp_path / "results.json").write_text("")  # beside the package: changes nothing in what was measured
    assert _git(package) == {"commit": git("rev-parse", "HEAD"), "dirty": False}
    (package / "new.py").write_text("")
    assert _git(package) == {"commit": git("rev-parse", "HEAD"), "dirty": True}


@pytest.mark.parametrize(
    ("flags", "precision"), [(["avx2"], "fp32"), (["avx2", "avx512_bf16"], "bf16"), (["bf16"], "bf16")]
)
def test_auto_is_bf16_where_the_cpu_has_instructions(
    flags: list[str], precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "_cpuinfo", lambda: {"flags": flags})
    assert precision_of("auto", "cpu") == precision
    assert precision_of("bf16", "cpu") == "bf16"


@pytest.mark.parametrize(("supported", "precision"), [(True, "bf16"), (False, "fp32")])
def test_auto_is_bf16_where_the_gpu_can(supported: bool, precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: supported)
    assert precision_of("auto") == precision
