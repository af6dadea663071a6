"""Which processes share a run: what torchrun and srun say, and what merely looks like it."""

from __future__ import annotations

import os

import pytest

from leanconv.core.errors import SettingError
from leanconv.core.processes import Processes, devices_of, leads, rank, started

TORCHRUN = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"}
SRUN = {"SLURM_PROCID": "2", "SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_NUM_NODES": "2", "SLURM_NTASKS": "4"}
BATCH = {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NTASKS": "4", "SLURM_JOB_ID": "7", "SLURM_NNODES": "2"}


@pytest.fixture(autouse=True)
def _nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("SLURM_") or name in {*TORCHRUN, "LOCAL_RANK"}:
            monkeypatch.delenv(name)


def given(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)


def test_alone() -> None:
    assert (started(), rank(), leads(), devices_of(None), devices_of(3)) == (None, 0, True, 1, 3)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        (TORCHRUN, Processes("torchrun", 4, 2, 1)),
        ({"RANK": "0", "WORLD_SIZE": "2"}, Processes("torchrun", 2, 2, 0)),
        (SRUN, Processes("srun", 4, 2, 2)),
        ({"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2"}, Processes("srun", 2, 2, 1)),
        ({**SRUN, **TORCHRUN}, Processes("torchrun", 4, 2, 1)),  # torchrun within a step of one task a machine
    ],
)
def test_several(environment: dict[str, str], expected: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, environment)
    assert started() == expected
    assert (rank(), leads()) == (expected.rank, expected.rank == 0)
    for asked in (None, "auto", -1):
        assert devices_of(asked) == expected.local_size
    assert devices_of(2) == 2
    for wrong in (1, 3, "4"):
        with pytest.raises(
            SettingError, match=rf"^devices={wrong}, but {expected.launcher} started 2 processes on this"
        ):
            devices_of(wrong)


@pytest.mark.parametrize(
    "environment",
    [
        {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"},
        {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1", "SLURM_NTASKS": "4"},
        BATCH,
        {"WORLD_SIZE": "2"},
    ],
)
def test_one_process_that_a_launcher_or_a_batch_script_started(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    given(monkeypatch, environment)
    assert (started(), leads(), devices_of(None), devices_of(2)) == (None, True, 1, 2)


def test_a_process_that_lightning_started_beside_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, {"LOCAL_RANK": "1", "WORLD_SIZE": "2", "NODE_RANK": "0"})
    assert (started(), rank(), leads()) == (None, 1, False)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"RANK": "4"}, "4 of 4, 2 on this machine"),
        ({"LOCAL_WORLD_SIZE": "3"}, "1 of 4, 3 on this machine"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE='0' in the environment must be a whole number of at least 1"),
        ({"RANK": "first"}, "RANK='first' in the environment must be a whole number of at least 0"),
    ],
)
def test_numbers_that_cannot_be(change: dict[str, str], words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, TORCHRUN | change)
    with pytest.raises(SettingError, match=words):
        started()
