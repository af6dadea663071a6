"""What Lightning is told of the processes of a run."""

from __future__ import annotations

import os

import pytest
from lightning.fabric.plugins.environments import LightningEnvironment, TorchElasticEnvironment

from leanconv.train.placement import Srun, placement
from tests.core.test_processes import BATCH, SRUN, TORCHRUN


@pytest.fixture(autouse=True)
def _nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("SLURM_") or name in TORCHRUN:
            monkeypatch.delenv(name)


@pytest.mark.parametrize(
    ("environment", "counts", "kind"),
    [
        ({}, {"devices": 1, "num_nodes": 1}, LightningEnvironment),
        (BATCH, {"devices": 1, "num_nodes": 1}, LightningEnvironment),  # Lightning would wait for three others
        (TORCHRUN, {"devices": 2, "num_nodes": 2}, TorchElasticEnvironment),
        (SRUN | {"SLURM_LOCALID": "0", "SLURM_NODEID": "1"}, {"devices": 2, "num_nodes": 2}, Srun),
    ],
)
def test_what_lightning_is_told(
    environment: dict[str, str], counts: dict[str, int], kind: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    found, told = placement(None)
    assert found == counts
    assert type(told) is kind
    if environment and kind is not LightningEnvironment:
        assert (told.world_size(), told.node_rank()) == (4, 1 if kind is Srun else 0)
        assert told.global_rank() == (2 if kind is Srun else 1)
        assert told.creates_processes_externally
        told.validate_settings(num_devices=counts["devices"], num_nodes=counts["num_nodes"])
