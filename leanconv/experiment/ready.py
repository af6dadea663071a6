"""A job whose network is built: what is trained, on which images, and how."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from leanconv.core.count import count
from leanconv.data import ImageData
from leanconv.experiment.job import Job
from leanconv.train.config import TrainConfig
from leanconv.train.run import check_execution, checked_engine


@dataclass(frozen=True)
class Ready:
    """What a run needs; the network is built once, here.

    Args:
        counts: params, macs and weight_bytes of the network.
        data: with its classes in the order of a network that was trained before.
        image_size: (height, width) of the images as the network takes them.
        request: what repeats the run on the command line; None where nothing does.
    """

    label: str
    network: nn.Module
    counts: dict[str, Any]
    data: ImageData
    config: TrainConfig
    image_size: tuple[int, int]
    request: dict[str, Any] | None


def check_options(job: Job, options: dict[str, Any]) -> None:
    """Raise SettingError for options of `leanconv.train.fit` that this machine or this job cannot have."""
    check_execution(job.config, options.get("accelerator", "auto"), options.get("devices"))
    checked_engine(options.get("callbacks", ()), options.get("logger"), options.get("strategy"))


def prepare(job: Job, options: dict[str, Any]) -> Ready:
    """Build and count the network of `job`; what cannot be counted should not cost a training.

    Raises:
        SettingError: the network, the method and the images do not go together.
    """
    network = job.build()
    counts = count(network, job.input_size).to_json()
    request = job.request(network, options.get("accelerator", "auto"))
    data = job.in_order_of(network).data
    return Ready(job.label, network, counts, data, job.config, job.image_size, request)
