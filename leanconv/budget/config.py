"""The settings of a search for a lean network, for flags, files and Python. This module imports no torch."""

from __future__ import annotations

from typing import Literal

from leanconv.core.config import LARGEST_SEED, Config, setting

EXECUTION = ("threads", "train_threads", "on")  # may change when a search is resumed; threads, if time decides nothing


class LeanConfig(Config):
    """How `leanconv.lean` measures, scores and recovers.

    Raises:
        SettingError: a setting is unknown, or a value breaks its rule.

    >>> LeanConfig(batch=16).align
    8
    """

    runtime: Literal["eager", "compile", "onnxruntime", "openvino"] = setting(
        "The runtime in which the network will run, and in which time is measured.", default="eager"
    )
    batch: int = setting("Images in a call, for time and memory.", default=1, least=1)
    threads: int | None = setting("CPU threads of the calls that are timed. Default: torch's.", default=None, least=1)
    train_threads: int | None = setting("CPU threads of the recovery. Default: torch's.", default=None, least=1)
    on: str | None = setting(
        "Score the candidates as jobs of a cluster: ray, or \"slurm(partition='cpu')\".", default=None
    )
    align: int = setting(
        "Channels of a whole vector: operators with other inner widths are not tried.", default=8, least=1
    )
    images: int | None = setting(
        "Images for fits and scores; the conversion takes 8 times as many. Default: 16 to 256, fewer for many MACs.",
        default=None,
        least=2,
    )
    measure_minutes: float = setting(
        "Longest time for measuring layers, of all starts together; the rest stays unmeasured.", default=8.0, above=0
    )
    minimise: Literal["time", "macs", "params", "bytes", "memory"] = setting(
        "What a budget of max_drop makes small.", default="time"
    )
    narrowed: int = setting(
        "Networks with fewer channels, fitted to the dense one, in which candidates are tried too.", default=2, least=0
    )
    remove_blocks: bool = setting("Try to remove residual blocks too.", default=True)
    points: int = setting("Budgets on the frontier.", default=9, least=2)
    validation: float = setting(
        "Part of train that is held out for choices; a run's own part is used again.", default=0.1, above=0, below=1
    )
    recovery_epochs: int | None = setting(
        "Epochs of training after the conversion; 0 for none. Default: a tenth of the recipe's.", default=None, least=0
    )
    check: int = setting(
        "Random choices on which predictions are compared with real networks; 0 for none, else at least 3.",
        default=0,
        least=0,
    )
    seed: int = setting("Seed of all random numbers.", default=0, least=0, most=LARGEST_SEED)
