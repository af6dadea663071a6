"""Where independent jobs run: on a Ray cluster, or as jobs of Slurm. Both schedule the jobs themselves.

A job is a function without arguments. It keeps what it found in files, so that a job that was killed can run again: a run
continues from its last checkpoint.
"""

from __future__ import annotations

import math
import os
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

from leanconv.core.calls import close_to, parse_call
from leanconv.core.errors import RunError, SettingError
from leanconv.core.method import NamedSettings
from leanconv.core.settings import check_int, check_weight

Job = Callable[[], Any]
LOOK_EVERY = 0.5  # seconds between two looks at the files that the jobs of Slurm leave
QUEUE_EVERY = 10.0  # seconds between two looks at Slurm's queue; an administrator does not want more


class Where(NamedSettings, ABC):
    """A place where jobs run, as text: "ray", "slurm(partition='gpu', gpus=1)"."""

    @abstractmethod
    def run(self, jobs: Mapping[str, Job], folder: Path) -> Iterator[tuple[str, Any]]:
        """(name, what the job returned) of each job as it ends, in any order.

        A job whose process or machine ended runs again. For a job that raised an error, or ended too often, the second value
        is the error.

        Args:
            jobs: by name; they are pickled by cloudpickle.
            folder: a folder that all machines see, for files about the jobs.

        Raises:
            SettingError: the library is not installed, or there is no such cluster.
        """


@dataclass(frozen=True)
class Ray(Where):
    """A Ray cluster: the one of ``RAY_ADDRESS``, or else a local one that ends with the call.

    Args:
        cpus, gpus: what each job takes.
        retries: how often a job runs again whose worker or machine ended.
    """

    cpus: float = 1
    gpus: float = 0
    retries: int = 3

    def __post_init__(self) -> None:
        check_weight("cpus", self.cpus)
        check_weight("gpus", self.gpus)
        check_int("retries", self.retries, 0)

    def run(self, jobs: Mapping[str, Job], folder: Path) -> Iterator[tuple[str, Any]]:
        try:
            import ray
        except ImportError:
            raise _missing("ray") from None
        own = not ray.is_initialized()
        if own:
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would send facts about its use
            ray.init(log_to_driver=False)
        try:
            remote = ray.remote(num_cpus=self.cpus, num_gpus=self.gpus, max_retries=self.retries)(_call)
            waiting = {remote.remote(job): name for name, job in jobs.items()}
            while waiting:
                (done,), _ = ray.wait(list(waiting))
                yield waiting.pop(done), _result(partial(ray.get, done))
        finally:
            if own:
                ray.shutdown()


@dataclass(frozen=True)
class Slurm(Where):
    """Jobs of Slurm, which submitit hands in.

    Args:
        partition: of Slurm; None takes its default.
        minutes: the longest time of a job.
        cpus, gpus: what each job takes.
        memory_gb: memory of each job; None takes Slurm's default.
        retries: how often a job is handed in again that Slurm ended.
        cluster: "slurm"; "local" starts all jobs at once on this machine, for a test.
    """

    partition: str | None = None
    minutes: int = 24 * 60
    cpus: int = 1
    gpus: int = 0
    memory_gb: float | None = None
    retries: int = 3
    cluster: str = "slurm"

    def __post_init__(self) -> None:
        for name, least in (("minutes", 1), ("cpus", 1), ("gpus", 0), ("retries", 0)):
            check_int(name, getattr(self, name), least)

    def run(self, jobs: Mapping[str, Job], folder: Path) -> Iterator[tuple[str, Any]]:
        executor = self._executor(folder)
        with executor.batch():
            waiting = {name: executor.submit(_call, job) for name, job in jobs.items()}
        tries = dict.fromkeys(waiting, 0)
        queue = Queue() if self.cluster == "slurm" else None
        try:
            while waiting:
                left = queue.left([started.job_id for started in waiting.values()]) if queue else set()
                for name, started in list(waiting.items()):
                    killed = started.job_id in left and not started.paths.result_pickle.exists()
                    if not killed and not started.done():
                        continue
                    if (killed or _was_ended(started)) and tries[name] < self.retries:
                        tries[name] += 1
                        waiting[name] = executor.submit(_call, jobs[name])
                        continue
                    del waiting[name]
                    yield name, _result(partial(_raise_killed, started) if killed else started.result)
                time.sleep(LOOK_EVERY)
        finally:
            for started in waiting.values():
                started.cancel()

    def _executor(self, folder: Path) -> Any:
        try:
            import submitit
        except ImportError:
            raise _missing("submitit", "slurm") from None
        try:
            executor = submitit.AutoExecutor(folder=folder, cluster=self.cluster)
        except (RuntimeError, ValueError, AssertionError) as error:
            raise SettingError(f"--on {self.label()}: {error}; start it where sbatch works") from error
        more = {"slurm_partition": self.partition, "mem_gb": self.memory_gb}
        executor.update_parameters(
            name="leanconv", timeout_min=self.minutes, cpus_per_task=self.cpus, gpus_per_node=self.gpus,
            **{name: value for name, value in more.items() if value is not None},
        )  # fmt: skip
        return executor


class Queue:
    """Which jobs have left Slurm's queue.

    submitit asks Slurm's accounting, which many clusters do not have, and asks every ten minutes. Every cluster has `squeue`.
    """

    def __init__(self) -> None:
        self._looked = -math.inf
        self._missed: set[str] = set()

    def left(self, jobs: Collection[str]) -> set[str]:
        """Those of `jobs` that two looks, `QUEUE_EVERY` seconds apart, did not find; none between two looks."""
        if time.monotonic() < self._looked + QUEUE_EVERY:
            return set()
        asked = ["squeue", "--me", "--array", "--noheader", "--format", "%i"]
        found = subprocess.run(asked, capture_output=True, text=True, check=False)
        self._looked = time.monotonic()
        if found.returncode:  # the cluster does not answer just now
            return set()
        before, self._missed = self._missed, set(jobs) - set(found.stdout.split())
        return before & self._missed


PLACES: dict[str, type[Where]] = {kind.name: kind for kind in (Ray, Slurm)}


def where_of(asked: str | Where | None) -> Where | None:
    """The place that a text names; None stays None: the jobs run here, one after the other.

    Raises:
        SettingError: there is no such place, or no such setting.

    >>> where_of("ray(cpus=2)")
    Ray(cpus=2, gpus=0, retries=3)
    """
    if asked is None or isinstance(asked, Where):
        return asked
    call = parse_call(asked, "place", "ray or slurm(partition='gpu')", _settings_of)
    return PLACES[call.name].from_settings(call.settings)


def _settings_of(name: str) -> dict[str, Any]:
    if name not in PLACES:
        raise SettingError(f"--on {name!r}{close_to(name, [*PLACES])}: must be {' or '.join(PLACES)}")
    return {field.name: field.default for field in fields(PLACES[name])}


@dataclass(frozen=True)
class Raised:
    """The error of a job, which comes back as a value: the libraries would turn it into a text of their own."""

    error: Exception


def _call(job: Job) -> Any:
    try:
        return job()
    except Exception as error:
        return Raised(error)


def _result(get: Job) -> Any:
    """What a job returned or raised, or that it ended without either."""
    try:
        found = get()
    except Exception as error:  # in the words of the library that ran it
        return RunError(f"its process or machine ended too often ({_last_line(error)}); run the same command again")
    return found.error if isinstance(found, Raised) else found


def _last_line(error: Exception) -> str:
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return (lines[-1].strip(" -") if lines else type(error).__name__)[:300]


def _was_ended(started: Any) -> bool:
    """Whether a job of submitit ended without a result: it was killed, or its machine failed."""
    from submitit.core.utils import UncompletedJobError

    return isinstance(started.exception(), UncompletedJobError)  # `_call` raises nothing


def _raise_killed(started: Any) -> None:
    raise RunError(started.stderr() or "killed")


def _missing(package: str, extra: str | None = None) -> SettingError:
    extra = extra or package
    return SettingError(f"--on {extra} needs {package}: pip install 'leanconv[{extra}]'")
