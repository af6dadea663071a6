"""An evaluation that the processes of torchrun or srun share: each takes some of the images, and the sums are added."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from leanconv.core.processes import started


@dataclass(frozen=True)
class Together:
    """The place of this process among those that share an evaluation.

    Args:
        rank, processes: the index of this process, and their number.

    >>> Together().summed(torch.tensor([1.0]))
    tensor([1.])
    """

    rank: int = 0
    processes: int = 1

    def summed(self, values: Tensor) -> Tensor:
        """The sum of `values` over all processes, on the device of `values`."""
        if self.processes == 1:
            return values
        total = values.detach().cpu()
        torch.distributed.all_reduce(total)
        return total.to(values.device)

    def gathered(self, value: Any) -> list[Any]:
        """`value` of each process, in the order of their ranks."""
        if self.processes == 1:
            return [value]
        found: list[Any] = [None] * self.processes
        torch.distributed.all_gather_object(found, value)
        return found


@contextlib.contextmanager
def together(wanted: bool = True) -> Iterator[Together]:
    """The processes that a launcher started, connected inside the block; one process if there is no launcher.

    Every process must enter the block. Results are small, so they are exchanged on the CPU.

    Args:
        wanted: False takes this process alone.

    Raises:
        SettingError: the numbers in the environment contradict each other.
    """
    found = started() if wanted else None
    if found is None:
        yield Together()
        return
    here = Together(found.rank, found.world_size)
    if torch.distributed.is_initialized():
        yield here
        return
    if found.launcher == "srun":  # torchrun has set them
        from leanconv.train.placement import Srun

        environment = Srun(found)
        os.environ.setdefault("MASTER_ADDR", environment.main_address)
        os.environ.setdefault("MASTER_PORT", str(environment.main_port))
    torch.distributed.init_process_group("gloo", rank=found.rank, world_size=found.world_size)
    try:
        yield here
        torch.distributed.barrier()  # no process may leave while another one still needs the connection
    finally:
        torch.distributed.destroy_process_group()
