"""Train the runs of a comparison as independent jobs, each in its own folder, which all machines see."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

from leanconv.core.errors import LeanconvError, RunError, SettingError
from leanconv.core.processes import started
from leanconv.data import ImageData, describe, open_data
from leanconv.data.fingerprint import NORMALISATION
from leanconv.experiment.job import Job
from leanconv.experiment.ready import prepare
from leanconv.experiment.run import run
from leanconv.experiment.where import Where
from leanconv.train.once import failure

FOLDER = ".jobs"  # in the folder of the comparison: what the scheduler writes


@dataclass(frozen=True)
class Shipped:
    """A job as it goes to another machine: images that were opened by a name or a folder are opened there again.

    They keep the statistics that they have here, which may be the user's.

    Args:
        job: the job; without its images if `origin` says where they are.
        origin: as `ImageData.origin`.
        found: what `describe` says of the images.
    """

    job: Job
    origin: Mapping[str, Any] | None
    found: dict[str, Any]

    @classmethod
    def of(cls, job: Job) -> Shipped:
        """`job`, ready to be pickled."""
        origin = job.data.origin
        small = job if origin is None else replace(job, data=cast(ImageData, None))
        return cls(small, origin, describe(job.data))

    def unpacked(self) -> Job:
        """The job with its images.

        Raises:
            RunError: the images on this machine are other ones.
        """
        if self.origin is None:
            return self.job
        options = dict(self.origin)
        images = open_data(options.pop("data"), root=options.pop("data_root", None), **options)
        stats = self.found[NORMALISATION]
        if describe(images) | {NORMALISATION: stats} != self.found:
            raise RunError(f"{self.origin['data']}: this machine has other images; give a folder that all machines see")
        return replace(self.job, data=replace(images, mean=tuple(stats["mean"]), std=tuple(stats["std"])))


def train_elsewhere(jobs: Mapping[Path, Job], out: Path, where: Where, options: Mapping[str, Any]) -> dict[Path, str]:
    """Train jobs where `where` says; each writes its folder, as it would here.

    Args:
        jobs: by folder.
        out: the folder of the comparison.
        where: the place.
        options: options of `leanconv.train.fit`.

    Returns:
        why a run failed, by folder.

    Raises:
        SettingError, DataError, FileError: a job cannot run at all.
    """
    if started() is not None:
        raise SettingError("--on (on=) starts jobs of its own; start it without torchrun and srun")
    own = {name: value for name, value in options.items() if value is not None}
    works = {str(folder): partial(_work, Shipped.of(job), str(folder.resolve()), own) for folder, job in jobs.items()}
    failed: dict[Path, str] = {}
    for name, found in where.run(works, out / FOLDER):
        if isinstance(found, LeanconvError) and not isinstance(found, RunError):
            raise found
        if found is not None:
            failed[Path(name)] = failure(found) if isinstance(found, Exception) else str(found)
    return failed


def _work(shipped: Shipped, folder: str, options: dict[str, Any]) -> str | None:
    """What a job does on its machine; returns why it failed."""
    try:
        job = shipped.unpacked()
        run(job, prepare(job, options), Path(folder), progress=False, **options)
    except RunError as error:
        return failure(error)
    return None
