"""Where a run's processes are, for Lightning: as the launcher started them, never as Lightning guesses."""

from __future__ import annotations

import signal
from typing import Any

from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment

from leanconv.core.processes import Processes, devices_of, started


class Srun(SLURMEnvironment):
    """The tasks that srun started. Lightning's own reads the job's numbers, which a single process in a job sees too."""

    def __init__(self, found: Processes) -> None:
        # in place of its own, which refuses --ntasks without --ntasks-per-node
        self.found = found
        self.auto_requeue, self.requeue_signal = False, signal.SIGUSR1

    def world_size(self) -> int:
        return self.found.world_size

    def global_rank(self) -> int:
        return self.found.rank

    def validate_settings(self, num_devices: int, num_nodes: int) -> None:
        pass  # both come from `found`


def placement(devices: int | str | None) -> tuple[dict[str, Any], ClusterEnvironment]:
    """Lightning's settings of how many processes there are, and what tells them apart.

    Raises:
        SettingError: as `leanconv.core.processes.devices_of`.
    """
    found = started()
    counts = {"devices": devices_of(devices), "num_nodes": 1 if found is None else found.machines}
    if found is None:
        return counts, LightningEnvironment()
    return counts, Srun(found) if found.launcher == "srun" else TorchElasticEnvironment()
