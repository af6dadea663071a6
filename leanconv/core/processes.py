"""Several processes that share a run."""

from __future__ import annotations

import os
from dataclasses import dataclass

from leanconv.core.errors import SettingError


@dataclass(frozen=True)
class Processes:
    """What started the processes of a run, and which of them this one is.

    Args:
        launcher: "torchrun" or "srun"; what else sets RANK and WORLD_SIZE goes by the first name.
        world_size: how many there are on all machines together.
        local_size: how many there are on this machine.
        rank: which one this is, of all.
    """

    launcher: str
    world_size: int
    local_size: int
    rank: int

    @property
    def machines(self) -> int:
        return self.world_size // self.local_size


def started() -> Processes | None:
    """The processes that a launcher started, read from the environment; None where it started none, or one alone.

    torchrun sets RANK, WORLD_SIZE and LOCAL_WORLD_SIZE. Slurm's srun sets SLURM_STEP_NUM_TASKS and SLURM_PROCID; in a batch
    script that runs a single process the numbers of the job stand in SLURM_NTASKS all the same, and are not read.

    Raises:
        SettingError: numbers that contradict each other.
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
            raise SettingError(f"{world} tasks on {machines} machines: give each as many, with --ntasks-per-node")
        found = Processes("srun", world, world // machines, rank)
    else:
        return None
    if rank >= world or world % found.local_size:
        numbers = f"{rank} of {world}, {found.local_size} on this machine"
        raise SettingError(f"{names} do not go together in the environment ({numbers}); unset them, or start it anew")
    return found if world > 1 else None


def devices_of(asked: int | str | None) -> int | str:
    """How many processes train on this machine: what the launcher started, else what was asked for, else one.

    Raises:
        SettingError: another number than the launcher started.
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
    """Which of the processes that share a run this one is; 0 for the only one."""
    found = started()
    # LOCAL_RANK alone: a process that Lightning started beside the first
    return found.rank if found else _number("LOCAL_RANK") if "LOCAL_RANK" in os.environ else 0


def leads() -> bool:
    """Whether this is the first of the processes that share a run, or the only one: it alone checks, locks, writes and prints."""
    return rank() == 0


def _number(name: str, least: int = 0) -> int:
    text = os.environ[name]
    if not text.isdecimal() or int(text) < least:
        raise SettingError(f"{name}={text!r} in the environment must be a whole number of at least {least}; unset it")
    return int(text)
