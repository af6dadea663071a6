"""The processes that share a run."""

from __future__ import annotations

import os
from dataclasses import dataclass

from leanconv.core.errors import SettingError


@dataclass(frozen=True)
class Processes:
    """The launcher of a run, the number of its processes, and the rank of this process.

    Args:
        launcher: "torchrun" or "srun"; any other launcher that sets RANK and WORLD_SIZE counts as "torchrun".
        world_size: the number of processes on all machines.
        local_size: the number of processes on this machine.
        rank: the rank of this process among all processes.
    """

    launcher: str
    world_size: int
    local_size: int
    rank: int

    @property
    def machines(self) -> int:
        """The number of machines."""
        return self.world_size // self.local_size


def started() -> Processes | None:
    """The processes that a launcher started, from the environment; None without a launcher, or for a single process.

    torchrun sets RANK, WORLD_SIZE and LOCAL_WORLD_SIZE. Slurm's srun sets SLURM_STEP_NUM_TASKS and SLURM_PROCID. SLURM_NTASKS
    is ignored, because a batch script has it even if the script runs a single process.

    Raises:
        SettingError: the numbers in the environment contradict each other.
    """
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        rank, world = _number("RANK"), _number("WORLD_SIZE", 1)
        local = _number("LOCAL_WORLD_SIZE", 1) if "LOCAL_WORLD_SIZE" in os.environ else world
        names = "RANK, WORLD_SIZE and LOCAL_WORLD_SIZE"
        found = Processes("torchrun", world, local, rank)
    elif "SLURM_STEP_NUM_TASKS" in os.environ and "SLURM_PROCID" in os.environ:
        rank, world = _number("SLURM_PROCID"), _number("SLURM_STEP_NUM_TASKS", 1)
        machines = _number("SLURM_STEP_NUM_NODES", 1) if "SLURM_STEP_NUM_NODES" in os.environ else 1
        names = "SLURM_PROCID, SLURM_STEP_NUM_TASKS and SLURM_STEP_NUM_NODES"
        if world % machines:
            raise SettingError(
                f"{world} tasks on {machines} machines: give each machine equally many, with --ntasks-per-node"
            )
        found = Processes("srun", world, world // machines, rank)
    else:
        return None
    if rank >= world or world % found.local_size:
        numbers = f"{rank} of {world}, {found.local_size} on this machine"
        raise SettingError(f"{names} do not go together in the environment ({numbers}); unset them, or start it anew")
    return found if world > 1 else None


def devices_of(asked: int | str | None) -> int | str:
    """The number of processes on this machine: the launcher's number, otherwise `asked`, otherwise 1.

    Raises:
        SettingError: `asked` differs from the launcher's number.
    """
    found = started()
    if found is None:
        return 1 if asked is None else asked
    if asked in (None, "auto", -1, "-1"):
        return found.local_size
    if str(asked) != str(found.local_size):
        text = f"devices={asked}, but {found.launcher} started {found.local_size} processes on this machine"
        raise SettingError(f"{text}; leave --devices (devices=) out, or start {asked}")
    return asked


def rank() -> int:
    """The rank of this process among the processes that share a run; 0 for a single process."""
    found = started()
    # Only LOCAL_RANK is set in a process that Lightning started besides the first one
    return found.rank if found else _number("LOCAL_RANK") if "LOCAL_RANK" in os.environ else 0


def own_device(device: str) -> str:
    """`device` for this process: "cuda" becomes the GPU of its number on this machine.

    >>> own_device("cpu")
    'cpu'
    """
    local = next((name for name in ("LOCAL_RANK", "SLURM_LOCALID") if name in os.environ), None)
    return f"cuda:{_number(local)}" if device == "cuda" and local and started() else device


def leads() -> bool:
    """Whether this process has rank 0; only this process checks, locks, writes and prints."""
    return rank() == 0


def _number(name: str, least: int = 0) -> int:
    text = os.environ[name]
    if not text.isdecimal() or int(text) < least:
        raise SettingError(f"{name}={text!r} in the environment must be a whole number of at least {least}; unset it")
    return int(text)
