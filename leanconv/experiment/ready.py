"""A job with its built network: the network, the images and the settings of a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from leanconv.core.count import count
from leanconv.data import ImageData
from leanconv.experiment.job import Job
from leanconv.train.config import TrainConfig
from leanconv.train.distill import distillation_for
from leanconv.train.optimizers import check_parameters
from leanconv.train.run import check_execution, checked_engine


@dataclass(frozen=True)
class Ready:
    """Everything that a run needs; the network is built only once.

    Args:
        label: the name of the run.
        network: the network to train.
        counts: params, macs and weight_bytes of the network.
        data: the images; the classes have the order of the network, if it was trained before.
        config: the settings.
        image_size: (height, width) of the images as the network takes them.
        request: the arguments that repeat the run on the command line; None if there are none.
        teacher: the network from which the network learns, or None.
    """

    label: str
    network: nn.Module
    counts: dict[str, Any]
    data: ImageData
    config: TrainConfig
    image_size: tuple[int, int]
    request: dict[str, Any] | None
    teacher: nn.Module | None = None


def check_options(job: Job, options: dict[str, Any]) -> None:
    """Raise SettingError for options of `leanconv.train.fit` that do not fit this machine or this job."""
    check_execution(job.config, options.get("accelerator", "auto"), options.get("devices"))
    checked_engine(options.get("callbacks", ()), options.get("logger"), options.get("strategy"))


def prepare(job: Job, options: dict[str, Any]) -> Ready:
    """Build and count the network of `job`, so that an error in either is found before training.

    Raises:
        SettingError: the network, the method, the images, the teacher and the settings do not fit each other.
    """
    network = job.build()
    check_parameters(network, job.config)
    counts = count(network, job.input_size).to_json()
    request = job.request(network, options.get("accelerator", "auto"))
    data = job.in_order_of(network).data
    teacher = None if job.teacher is None else job.teacher.network
    distillation_for(teacher, network, data, job.config)
    return Ready(job.label_of(network), network, counts, data, job.config, job.image_size, request, teacher)
