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
from leanconv.core.method import Method
from leanconv.train.fsdp import shard_, units_of, whole_state
from tests.gates.tree import ROOT

BLOCKS = [f"1.{number}" for number in range(4)]


Rules = list[tuple[str, Method]]


def net(rules: Rules) -> nn.Module:
    """Four blocks, converted."""
    torch.manual_seed(0)
    blocks = [nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1)) for _ in range(4)]
    dense = nn.Sequential(nn.Conv2d(1, 4, 1), nn.Sequential(*blocks), nn.Flatten(), nn.Linear(256, 3))
    return lc.convert(dense, lc.plan(dense, rules, input_size=(1, 8, 8)), "fresh")


def shared(*where: str) -> Rules:
    """The layers of each glob share one weight."""
    return [(glob, lc.DepthShared(scope="network")) for glob in where]


def basis(*where: str) -> Rules:
    """The layers of each glob share a filter basis, which has a penalty."""
    return [(glob, lc.SharedBasis(shared=2, unique=1, norm=False)) for glob in where]


NETS: dict[str, Rules] = {
    "within a block": shared(*(f"{block}.*" for block in BLOCKS)),
    "of two blocks": shared("1.[13].*"),
    "a penalty within a block": basis("1.0.*", "1.2.*"),
    "a penalty of two blocks": basis("1.[13].*"),
    "a penalty that counts": [("1.*", lc.Lego(balance=0.1))],
}


def test_owner_and_users_are_in_one_unit() -> None:
    for sharing in ("within a block", "a penalty within a block"):
        assert units_of(net(NETS[sharing])) == BLOCKS
    for sharing in ("of two blocks", "a penalty of two blocks"):
        assert units_of(net(NETS[sharing])) == ["1.0", "1.2"], "the others belong to the whole network"
    with pytest.raises(SettingError, match=r"cannot be divided: its blocks share weights with each other, .*; use DDP"):
        units_of(net(shared("1.*")))
    with pytest.raises(SettingError, match="cannot be divided: it has no blocks of several layers"):
        units_of(nn.Sequential(nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 1)))


def steps(model: nn.Module, rank: int = 0, processes: int = 1) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    draw = torch.Generator().manual_seed(1)
    for _ in range(4):
        images, labels = torch.randn(8, 1, 8, 8, generator=draw), torch.randint(3, (8,), generator=draw)
        extra = lc.penalty(model) / 2  # all weights are divided here; after the forward pass some are whole
        loss = F.cross_entropy(model(images[rank::processes]), labels[rank::processes])
        loss = loss + extra + lc.penalty(model) / 2
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def main() -> None:
    """What each process does."""
    from torch.distributed.device_mesh import init_device_mesh

    dist.init_process_group("gloo")
    for rules in NETS.values():
        model = net(rules)
        alone = copy.deepcopy(model)
        model.to(memory_format=torch.channels_last)
        shard_(model, mesh=init_device_mesh("cpu", (dist.get_world_size(),)))
        steps(model, dist.get_rank(), dist.get_world_size())
        steps(alone)
        found = whole_state(model)
        assert {type(value) for value in found.values()} == {Tensor}
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
