"""A Slurm cluster of two machines, which both are this one; it ends with the test."""

from __future__ import annotations

import getpass
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "srun", "sinfo")
FOLDERS = "/usr/sbin:/usr/local/sbin"  # where Slurm's daemons are
CONFIG = """
ClusterName=leanconv
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdSpoolDir={folder}/%n
SlurmdPidFile={folder}/%n.pid
SlurmdLogFile={folder}/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_res
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
ReturnToService=2
MpiDefault=none
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=2 State=UNKNOWN
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=2 State=UNKNOWN
PartitionName=all Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
"""


@dataclass(frozen=True)
class Cluster:
    """A running cluster.

    Args:
        environment: what Slurm's commands need.
    """

    environment: dict[str, str]

    def srun(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command as two tasks, one on each machine."""
        start = [
            "srun",
            "--nodes",
            "2",
            "--ntasks-per-node",
            "1",
            "--cpus-per-task",
            "1",
            "--kill-on-bad-exit",
            *command,
        ]
        return subprocess.run(start, env=self.environment, capture_output=True, text=True, timeout=600)


def missing() -> list[str]:
    """Slurm's programs that this machine does not have."""
    return [name for name in PROGRAMS if not shutil.which(name, path=_path())]


@contextmanager
def slurm_of_two() -> Iterator[Cluster]:
    """Start Slurm with the machines n1 and n2, in a folder of its own with a short name (a socket's name has a limit)."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="slurm", ignore_cleanup_errors=True)))
        config, environment = _written(folder), os.environ | {"PATH": _path(), "MASTER_ADDR": "127.0.0.1"}
        environment["SLURM_CONF"] = str(config)

        def start(*command: str) -> None:
            log = stack.enter_context((folder / f"{command[0]}.out").open("ab"))
            found = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
            stack.callback(_stop, found)

        socket_file = folder / "munge.socket"
        options = [f"--{name}-file={folder / 'munge'}.{name}" for name in ("key", "pid", "log", "seed")]
        start("munged", "--foreground", "--force", f"--socket={socket_file}", *options)
        _wait(socket_file.exists, folder)
        start("slurmctld", "-D", "-f", str(config))
        for name in ("n1", "n2"):
            start("slurmd", "-D", "-f", str(config), "-N", name)
        _wait(lambda: _idle(environment) == 2, folder)
        yield Cluster(environment)
        subprocess.run(["scancel", "--user", getpass.getuser()], env=environment, check=False)


def _written(folder: Path) -> Path:
    (folder / "state").mkdir()
    for name in ("n1", "n2"):
        (folder / name).mkdir()
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(1024))
    key.chmod(0o400)
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(3)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        ports = [one.getsockname()[1] for one in sockets]
    config = folder / "slurm.conf"
    config.write_text(
        CONFIG.format(folder=folder, ports=ports, user=getpass.getuser(), host=socket.gethostname().split(".")[0])
    )
    return config


def _path() -> str:
    return f"{os.environ['PATH']}:{FOLDERS}"


def _idle(environment: dict[str, str]) -> int:
    command = ["sinfo", "--noheader", "--Node", "--states", "idle", "--format", "%N"]
    return len(subprocess.run(command, env=environment, capture_output=True, text=True).stdout.split())


def _wait(holds: Callable[[], bool], folder: Path, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            logs = {path.name: path.read_text(errors="replace")[-2000:] for path in folder.glob("*.[lo][ou][gt]")}
            raise RuntimeError(f"Slurm did not start within {seconds:.0f} s: {logs}")
        time.sleep(0.2)


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
