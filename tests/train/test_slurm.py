"""Runs that srun starts on two machines of a real Slurm, and the jobs of a comparison that Slurm runs."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import leanconv as lc
from leanconv.core.errors import RunError
from leanconv.experiment.where import Slurm
from tests.experiment.test_where import CALL, assert_same, check_place, noted
from tests.gates.tree import ROOT
from tests.slurm import Cluster, missing, slurm_of_two
from tests.train.test_elastic import check_same, whole

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(bool(missing()), reason=f"no Slurm here: {', '.join(missing())}"),
]
LEANCONV = (sys.executable, "-m", "leanconv")
SMALL = shlex.split("'resnet8(width=4)' --data digits --epochs 2 --threads 1 --precision fp32 --device cpu")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with slurm_of_two() as found, pytest.MonkeyPatch.context() as patch:
        for name, value in found.environment.items():
            patch.setenv(name, value)
        patch.setenv("PYTHONPATH", str(ROOT))
        yield Cluster(dict(os.environ))


def summary(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "summary.json").read_text())


def test_srun_trains_one_run_and_tests_it_on_two_machines(tmp_path: Path, cluster: Cluster) -> None:
    train = (*LEANCONV, "train", *SMALL, "--out", str(tmp_path / "run"))
    done = cluster.srun(*train)
    assert done.returncode == 0, done.stderr
    assert (done.stdout + done.stderr).count("saved in") == 1, "one of them prints"
    found = summary(tmp_path / "run")
    scores = cluster.srun(*LEANCONV, "eval", str(tmp_path / "run"), "--json")
    assert scores.returncode == 0, scores.stderr
    assert json.loads(scores.stdout)["top1_pct"] == pytest.approx(found["test"]["top1_pct"])


def program(folder: Path, step: int = 1000, **more: Any) -> tuple[str, ...]:
    """The run of test_elastic.py, whose network has no batch norms."""
    return sys.executable, "-c", f"from tests.train.test_elastic import main; main({str(folder)!r}, {step}, {more!r})"


def test_the_weights_are_those_of_one_process(tmp_path: Path, cluster: Cluster) -> None:
    done = cluster.srun(*program(tmp_path / "two"))
    assert done.returncode == 0, done.stderr
    check_same(tmp_path / "two", *whole(tmp_path / "one"))
    first, second = (json.loads((tmp_path / "two" / f"scores{rank}.json").read_text()) for rank in (0, 1))
    assert first == second and first["n"] == 101


def test_a_machine_that_ends_and_a_run_that_continues_on_one(tmp_path: Path, cluster: Cluster) -> None:
    assert cluster.srun(*program(tmp_path / "two", 6, kills=True)).returncode != 0
    check_same(tmp_path / "two", *whole(tmp_path / "one"))


def test_jobs_of_a_comparison(tmp_path: Path, cluster: Cluster) -> None:
    assert cluster
    check_place(Slurm(minutes=10), tmp_path)
    ended = dict(Slurm(minutes=10, retries=0).run({"x": partial(noted, tmp_path, "x", True)}, tmp_path / "jobs"))
    assert isinstance(ended["x"], RunError) and "ended too often" in str(ended["x"])
    serial = lc.compare(**CALL, out=tmp_path / "serial")
    assert_same(lc.compare(**CALL, out=tmp_path / "slurm", on="slurm"), serial, tmp_path)
