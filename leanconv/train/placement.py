"""The processes of a run, for Lightning: as the launcher started them, not as Lightning guesses."""

from __future__ import annotations

import signal
from typing import Any

from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment

from leanconv.core.processes import Processes, devices_of, started


class Srun(SLURMEnvironment):
    """The tasks that srun started. Lightning's class reads the job's numbers, which a single process in a job sees too.

    Args:
        found: the processes of the run.
    """

    def __init__(self, found: Processes) -> None:
        # The parent's __init__ is not called, because it refuses --ntasks without --ntasks-per-node
        self.found = found
        self.auto_requeue, self.requeue_signal = False, signal.SIGUSR1

    def world_size(self) -> int:
        return self.found.world_size

    def global_rank(self) -> int:
        return self.found.rank

    def validate_settings(self, num_devices: int, num_nodes: int) -> None:
        pass  # both come from `found`


def placement(devices: int | str | None) -> tuple[dict[str, Any], ClusterEnvironment]:
    """Lightning's settings for the number of processes, and the environment that tells the processes apart.

    Args:
        devices: as `fit` takes them.

    Raises:
        SettingError: as `leanconv.core.processes.devices_of`.
    """
    found = started()
    counts = {"devices": devices_of(devices), "num_nodes": 1 if found is None else found.machines}
    if found is None:
        return counts, LightningEnvironment()
    return counts, Srun(found) if found.launcher == "srun" else TorchElasticEnvironment()
