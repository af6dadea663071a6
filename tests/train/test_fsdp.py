"""FSDP2 on a lean network: the steps of one process, and units that hold the owner and all users of a weight."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

import leanconv as lc
from leanconv.core.errors import SettingError
from leanconv.train.fsdp import shard_, units_of
from tests.gates.tree import ROOT

BLOCKS = [f"1.{number}" for number in range(4)]


def net(*where: str) -> nn.Module:
    """Four blocks; the layers of each glob share one weight."""
    torch.manual_seed(0)
    blocks = [nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1)) for _ in range(4)]
    dense = nn.Sequential(nn.Conv2d(1, 4, 1), nn.Sequential(*blocks), nn.Flatten(), nn.Linear(256, 3))
    rules = [(glob, lc.DepthShared(scope="network")) for glob in where]
    return lc.convert(dense, lc.plan(dense, rules, input_size=(1, 8, 8)), "fresh")


NETS = {"within a block": tuple(f"{block}.*" for block in BLOCKS), "of two blocks": ("1.[13].*",)}


def test_owner_and_users_are_in_one_unit() -> None:
    assert units_of(net(*NETS["within a block"])) == BLOCKS
    assert units_of(net(*NETS["of two blocks"])) == ["1.0", "1.2"], "the others belong to the whole network"
    with pytest.raises(SettingError, match=r"cannot be divided: its blocks share weights with each other, .*; use DDP"):
        units_of(net("1.*"))
    with pytest.raises(SettingError, match="cannot be divided: it has no blocks of several layers"):
        units_of(nn.Sequential(nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 1)))


def steps(model: nn.Module, rank: int = 0, processes: int = 1) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    draw = torch.Generator().manual_seed(1)
    for _ in range(4):
        images, labels = torch.randn(8, 1, 8, 8, generator=draw), torch.randint(3, (8,), generator=draw)
        loss = F.cross_entropy(model(images[rank::processes]), labels[rank::processes]) + lc.penalty(model)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def main() -> None:
    """What each process does."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
    from torch.distributed.device_mesh import init_device_mesh

    dist.init_process_group("gloo")
    for globs in NETS.values():
        model = net(*globs)
        alone = copy.deepcopy(model)
        shard_(model, mesh=init_device_mesh("cpu", (dist.get_world_size(),)))
        steps(model, dist.get_rank(), dist.get_world_size())
        steps(alone)
        found: dict[str, Tensor] = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True))
        for name, value in alone.state_dict().items():
            torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5)
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_two_processes_take_the_steps_of_one(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text("from tests.train.test_fsdp import main; main()")
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", str(tmp_path / "program.py")],
        cwd=ROOT, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
