"""Runs as jobs of a cluster: equal to the runs here, gathered into one table, and run again when a worker is killed."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import leanconv as lc
from leanconv.core.errors import DataError, RunError, SettingError
from leanconv.data import open_data
from leanconv.experiment.elsewhere import Shipped
from leanconv.experiment.grid import jobs_of, methods_of
from leanconv.experiment.job import Job
from leanconv.experiment.where import PLACES, Queue, Ray, Slurm, Where, where_of
from tests.gates.tree import ROOT

LOCAL = Slurm(cluster="local", minutes=5)
CALL: dict[str, Any] = dict(
    models="resnet8(width=4)", methods="dense,tied_block", epochs=1, threads=1, latency=False, progress=False
)


class Here(Where):
    """Runs the jobs after a round trip through pickle, the last one first."""

    def run(self, jobs: Any, folder: Path) -> Iterator[tuple[str, Any]]:
        import cloudpickle

        for name, job in reversed(jobs.items()):
            try:
                yield name, cloudpickle.loads(cloudpickle.dumps(job))()
            except Exception as error:
                yield name, error


@pytest.fixture(autouse=True)
def workers_find_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def test_the_table_is_the_serial_one(tmp_path: Path) -> None:
    serial = lc.compare(**CALL, out=tmp_path / "serial")
    other = lc.compare(**CALL, out=tmp_path / "other", on=Here())
    assert_same(other, serial, tmp_path)
    again = lc.compare(**CALL, out=tmp_path / "other", on=Here())  # all are finished
    assert_same(again, serial, tmp_path)


def assert_same(found: Any, expected: Any, folder: Path) -> None:
    timed = ("train_seconds", "images_per_s")
    for mine, theirs in zip(found.rows, expected.rows, strict=True):
        assert {k: v for k, v in mine.items() if k not in timed} == {k: v for k, v in theirs.items() if k not in timed}
    for label, network in expected.networks.items():
        for name, value in network.state_dict().items():
            assert torch.equal(found.networks[label].state_dict()[name], value), name


def test_a_run_that_fails_and_one_that_cannot_run(tmp_path: Path) -> None:
    found = lc.compare(**CALL | {"lr": 1e9, "methods": "dense"}, out=tmp_path / "bad", on=Here())
    assert found.rows[0]["n"] == 0 and "not finite" in found.rows[0]["failed"]
    with pytest.raises(SettingError, match="on= needs out=: a folder that all machines see"):
        lc.compare(**CALL, on="ray")
    with pytest.raises(SettingError, match=r"--on 'rya' \(did you mean 'ray'\?\): must be ray or slurm"):
        lc.compare(**CALL, on="rya", out=tmp_path)
    with pytest.raises(SettingError, match=r"ray has no setting 'cpu'"):
        where_of("ray(cpu=2)")
    with pytest.raises(SettingError, match="minutes=0 must be a whole number of at least 1"):
        where_of("slurm(minutes=0)")
    assert where_of("slurm(partition='gpu', gpus=1)") == Slurm(partition="gpu", gpus=1)
    assert {kind.name for kind in (Ray, Slurm)} == {*PLACES}


def test_torchrun_and_a_cluster_exclude_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingError, match="starts jobs of its own; start it without torchrun and srun"):
        lc.compare(**CALL, out=tmp_path, on=Here())


def test_images_are_opened_again_and_compared(tmp_path: Path) -> None:
    data = open_data("digits")
    (job,) = jobs_of("resnet8", methods_of("dense"), Job("", None, data, lc.TrainConfig(threads=1)), 1)
    shipped = Shipped.of(job)
    assert shipped.job.data is None
    assert shipped.unpacked().identity() == job.identity()
    own = replace(job, data=replace(data, mean=(0.9,), std=(0.01,)))
    assert Shipped.of(own).unpacked().data.mean == (0.9,), "statistics of the user's go along"
    assert Shipped.of(own).unpacked().identity() == own.identity() != job.identity()
    shipped.found["train"] += 1
    with pytest.raises(RunError, match="this machine has other images"):
        shipped.unpacked()


# Jobs of the tests with real workers; each notes that it ran, and the first to run kills its process


def noted(folder: Path, name: str, killed: bool) -> str:
    tries = len(list(folder.glob(f"{name}-*")))
    (folder / f"{name}-{tries}").touch()
    if killed and not tries:
        os.kill(os.getpid(), signal.SIGKILL)
    return name


def refused() -> None:
    raise DataError("no such image")


def check_place(where: Where, folder: Path) -> None:
    jobs: dict[str, Callable[[], Any]] = {
        "plain": partial(noted, folder, "plain", False),
        "killed": partial(noted, folder, "killed", True),
        "refused": refused,
    }
    found = dict(where.run(jobs, folder / "jobs"))
    assert (found["plain"], found["killed"]) == ("plain", "killed")
    assert isinstance(found["refused"], DataError) and str(found["refused"]) == "no such image"
    assert sorted(path.name for path in folder.glob("*-*")) == ["killed-0", "killed-1", "plain-0"]


@pytest.mark.timeout(300)
def test_submitit_runs_a_killed_job_again(tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    check_place(LOCAL, tmp_path)
    ended = dict(
        Slurm(cluster="local", minutes=5, retries=0).run({"x": partial(noted, tmp_path, "x", True)}, tmp_path / "jobs")
    )
    assert isinstance(ended["x"], RunError) and "ended too often" in str(ended["x"])


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_submitit_gives_the_serial_table(tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    serial = lc.compare(**CALL, out=tmp_path / "serial")
    assert_same(lc.compare(**CALL, out=tmp_path / "slurm", on="slurm(cluster='local')"), serial, tmp_path)


AGENT = "dashboard_agent_listen_port"
PATIENCE = {  # of Ray, on a busy machine
    "RAY_agent_register_timeout_ms": "600000",
    "RAY_worker_register_timeout_seconds": "600",
    "RAY_worker_niceness": "0",  # Ray starts its workers with 15: they wait for every other program
    "RAY_USAGE_STATS_ENABLED": "0",
}


def ports() -> dict[str, int]:
    """Free ports for the agents of a node."""
    names = ("metrics_agent_port", "metrics_export_port", AGENT, "runtime_env_agent_port")
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in names]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return {name: one.getsockname()[1] for name, one in zip(names, sockets, strict=True)}


@pytest.fixture
def ray_of_two(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Ray's local cluster of two machines.

    A node that does not know the port of its dashboard agent gives up after 15 seconds, which a busy machine needs to start this
    agent. Ray gives the node all chosen ports but this one (2.60), so a script between them adds it.
    """
    ray = pytest.importorskip("ray")
    for name, value in PATIENCE.items():
        monkeypatch.setenv(name, value)
    from ray._private import services
    from ray.cluster_utils import Cluster

    program = shlex.quote(services.RAYLET_EXECUTABLE)

    def chosen() -> dict[str, int]:
        found, script = ports(), tmp_path_factory.mktemp("ray") / "raylet"
        script.write_text(f'#!/bin/sh\nexec {program} "$@" --{AGENT}={found[AGENT]}\n')
        script.chmod(0o755)
        monkeypatch.setattr(services, "RAYLET_EXECUTABLE", str(script))
        return found

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, **chosen()})
    cluster.add_node(num_cpus=1, **chosen())
    ray.init(address=cluster.address, log_to_driver=False)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_ray_runs_a_killed_job_again_and_gives_the_serial_table(tmp_path: Path, ray_of_two: Any) -> None:
    check_place(Ray(), tmp_path)
    serial = lc.compare(**CALL, out=tmp_path / "serial")
    assert_same(lc.compare(**CALL, out=tmp_path / "ray", on="ray"), serial, tmp_path)


def slept(folder: Path, name: str) -> str:
    """The machine on which the job runs; it waits until there is a file `go`, and notes its machine and its process."""
    import ray

    node = ray.get_runtime_context().get_node_id()
    (folder / f"{name}-{node}").write_text(f"{os.getpid()}\n")
    while not (folder / "go").exists():
        time.sleep(0.1)
    return str(node)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_jobs_of_a_machine_that_ends_run_on_another(tmp_path: Path, ray_of_two: Any) -> None:
    places = Ray().run({name: partial(slept, tmp_path, name) for name in ("a", "b")}, tmp_path)
    import threading

    found: dict[str, str] = {}
    waiting = threading.Thread(target=lambda: found.update(places))
    waiting.start()
    while sum(path.read_text().endswith("\n") for path in tmp_path.glob("?-*")) < 2:
        time.sleep(0.1)
    (ending,) = ray_of_two.worker_nodes
    (job,) = tmp_path.glob(f"?-{ending.node_id}")
    ray_of_two.remove_node(ending, allow_graceful=False)
    with contextlib.suppress(ProcessLookupError):  # on a busy machine, the process of the job outlives its node
        os.kill(int(job.read_text()), signal.SIGKILL)
    (tmp_path / "go").touch()
    waiting.join(900)
    assert sorted(found) == ["a", "b"] and {*found.values()} == {ray_of_two.head_node.node_id}
    assert len(list(tmp_path.glob("?-*"))) == 3


def test_a_job_that_left_the_queue_without_a_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fake `squeue` lists one job: the other counts as gone after two looks, and none while Slurm does not answer."""
    (tmp_path / "squeue").write_text("#!/bin/sh\necho 7_0\nexit ${FAILS:-0}\n")
    (tmp_path / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr("leanconv.experiment.where.QUEUE_EVERY", 0.0)
    queue = Queue()
    monkeypatch.setenv("FAILS", "1")
    assert [queue.left(["7_0", "7_1"]) for _ in range(3)] == [set()] * 3
    monkeypatch.setenv("FAILS", "0")
    assert queue.left(["7_0", "7_1"]) == set()
    assert queue.left(["7_0", "7_1"]) == {"7_1"}
    monkeypatch.setattr("leanconv.experiment.where.QUEUE_EVERY", 60.0)
    assert queue.left(["7_0", "7_1"]) == set()
