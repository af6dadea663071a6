"""Inference latency of several networks, measured side by side.

Networks measured one after the other would be measured at different moments of the machine, whose clocks, caches and other
programs change. So each round times all networks, in an order that rotates, and ratios are taken within each round.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from leanconv.core.copying import copied
from leanconv.core.errors import SettingError, first_line
from leanconv.core.layout import settled, to_layout, with_layout
from leanconv.core.meta import own_dtype
from leanconv.core.modes import in_eval
from leanconv.core.notes import image_size, input_size_of
from leanconv.core.paired import median_interval
from leanconv.core.settings import check_int, check_weight
from leanconv.timing.busy import Watch, warn_if_busy

# Shorter calls are repeated until a sample lasts this long, because a timer's and a scheduler's noise is some microseconds
SAMPLE_MS = 2.0
WARM_UP_CALLS = 60  # until malloc keeps its pages; with fewer calls, the page faults of large outputs are timed too
WARM_UP_SECONDS = 1.0
Progress = Callable[[int, int], None]  # is called with the number that are done, and the number of all
SAME = 0.005  # ratios nearer to 1 than this make no difference to a user


@dataclass(frozen=True)
class Latency:
    """Milliseconds for one call, and the ratio to another network's time: medians over rounds, with quartiles.

    Args:
        name: the network.
        median_ms, q25_ms, q75_ms: milliseconds for one call.
        ratio, ratio_q25, ratio_q75: this network's time divided by the other network's time in the same round.
        rounds: the number of rounds.
        ratio_low, ratio_high: 95 % confidence interval of the median of the rounds' ratios
            (`leanconv.core.paired.median_interval`); None with fewer than 6 rounds. The quartiles show how the rounds spread,
            and do not narrow with more rounds; the interval shows how precisely the median is known.
        busy: the part of the CPUs that other programs used during the measurement; None if the system does not show it.
    """

    name: str
    median_ms: float
    q25_ms: float
    q75_ms: float
    ratio: float
    ratio_q25: float
    ratio_q75: float
    rounds: int
    ratio_low: float | None = None
    ratio_high: float | None = None
    busy: float | None = None

    @property
    def apart(self) -> Literal["faster", "slower"] | None:
        """Whether the network is faster or slower than the one it is compared with; None if the rounds do not show it."""
        return apart(self.ratio_low, self.ratio_high)


def apart(low: float | None, high: float | None, same: float = SAME) -> Literal["faster", "slower"] | None:
    """Whether the confidence interval of a ratio of two times is all below 1, all above 1, or neither (None).

    Args:
        low, high: the interval; None if there is none.
        same: ratios nearer to 1 than this count as equal.

    >>> apart(0.8, 0.9), apart(0.9, 1.1), apart(1.2, 1.3)
    ('faster', None, 'slower')
    """
    if low is None or high is None:
        return None
    return "faster" if high < 1 - same else "slower" if low > 1 + same else None


def measure_latency(
    models: Mapping[str, nn.Module | Callable[[Tensor], object]],
    input_size: tuple[int, int, int] | None = None,
    *,
    batch: int = 1,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = torch.float32,
    channels_last: bool = False,
    compile: bool = False,
    threads: int | None = None,
    min_rounds: int = 20,
    seconds: float = 5.0,
) -> list[Latency]:
    """Time one forward pass of each of `models`, interleaved; ratios are to the first model.

    Args:
        models: name -> network (a copy is timed: in eval mode, on `device`, in `dtype`), or any callable, which is called
            unchanged.
        input_size: (channels, height, width); default: the input size of the first model.
        batch: images in a call; the latency is that of the whole batch.
        device: "cpu" or "cuda".
        dtype: of the input and the copies; None times each network in its own.
        channels_last: use this memory format for the input and the copies, if the network runs in it.
        compile: compile the copies first, with inductor.
        threads: CPU threads during the measurement; None leaves torch's setting.
        min_rounds, seconds: measure for `seconds` in all, after the warm-up, and for at least `min_rounds` rounds.

    Returns:
        one `Latency` for each model, in the order of `models`.
    Raises:
        SettingError: no input size is known, a network does not run on that input, or a setting is out of range.

    >>> from torch import nn
    >>> layer = nn.Conv2d(3, 3, 3)
    >>> [found.name for found in measure_latency({"conv": layer}, (3, 8, 8), min_rounds=1, seconds=0.01)]
    ['conv']
    """
    device = device_to_time(device)
    first = next(iter(models.values()), None)
    asked = None if input_size is None else image_size(input_size)
    size = asked or (input_size_of(first) if isinstance(first, nn.Module) else None)
    if size is None:
        raise SettingError(
            "input_size=None and the first network does not note its own; give (channels, height, width)"
        )
    check_int("batch", batch)
    check_weight("seconds", seconds)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(batch, *size, generator=generator)

    def call_of(name: str, model: nn.Module | Callable[[Tensor], object]) -> Callable[[], object]:
        own = dtype or (own_dtype(model, torch.float32) if isinstance(model, nn.Module) else torch.float32)
        x = drawn.to(device, own)
        images = with_layout(x, layout)
        if isinstance(model, nn.Module):
            model = to_layout(in_eval(copied(model)).to(device=device, dtype=own), layout)
            if channels_last:
                images = settled(model, x)
            if compile:
                model.compile()
        try:
            model(images)
        except Exception as error:  # the network's own code may raise anything
            raise SettingError(
                f"{name} does not run on an input of {tuple(x.shape)}: {first_line(error)}; check input_size"
            ) from error
        return lambda: model(images)

    with threads_set(threads), torch.inference_mode():
        calls = {name: call_of(name, model) for name, model in models.items()}
        found = time_interleaved(calls, device=device, min_rounds=min_rounds, seconds=seconds)
    if found:
        warn_if_busy(found[0].busy)
    return found


def device_to_time(device: str | torch.device) -> torch.device:
    """A device on which networks can be timed here.

    Raises:
        SettingError: there is no such device here, or it is no CPU and no CUDA device.

    >>> device_to_time("cpu")
    device(type='cpu')
    """
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError):
        found = torch.device("meta")
    if found.type not in ("cpu", "cuda"):
        raise SettingError(f"device={str(device)!r} cannot be timed; use 'cpu' or 'cuda'")
    here = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if found.type == "cuda" and (found.index or 0) >= here:
        raise SettingError(f"device={str(device)!r}: torch finds {here or 'no'} GPU here; take cpu")
    return found


def time_interleaved(
    calls: Mapping[str, Callable[[], object]],
    *,
    device: str | torch.device = "cpu",
    min_rounds: int = 20,
    seconds: float = 5.0,
    warm_up: float = WARM_UP_SECONDS,
    base: Collection[str] | None = None,
) -> list[Latency]:
    """Time `calls` in rounds; one untimed call precedes each sample, so that the caches hold this call's data.

    Args:
        calls: name -> what to call.
        device: "cuda" times with CUDA events, all others with the clock.
        min_rounds, seconds: as for `measure_latency`.
        warm_up: seconds for which each call is repeated before the measurement, at most.
        base: ratios are to the fastest of these; None for the first call.

    Raises:
        SettingError: `min_rounds` is less than 1.

    >>> found = time_interleaved({"a": lambda: None, "b": lambda: None}, min_rounds=2, seconds=0, warm_up=0)
    >>> [entry.name for entry in found], found[0].ratio
    (['a', 'b'], 1.0)
    """
    if not calls:
        return []
    if min_rounds < 1:
        raise SettingError(f"min_rounds={min_rounds} must be at least 1")
    sample = _cuda_ms if torch.device(device).type == "cuda" else _cpu_ms
    names = list(calls)
    with _no_garbage_collection():
        repeats = {name: _warm_up(call, sample, warm_up) for name, call in calls.items()}
        rounds: list[dict[str, float]] = []
        watch = Watch()
        end = time.perf_counter() + seconds
        while len(rounds) < min_rounds or time.perf_counter() < end:
            turn = len(rounds) % len(names)
            times = {}
            for name in names[turn:] + names[:turn]:
                calls[name]()
                times[name] = sample(calls[name], repeats[name])
            rounds.append(times)
        busy = watch.others()
    table = np.array([[times[name] for name in names] for times in rounds])
    medians = np.median(table, axis=0)
    first = min((names.index(name) for name in base or names[:1]), key=lambda index: medians[index])
    ratios = table / table[:, first : first + 1]
    return [_latency(name, table[:, index], ratios[:, index], busy) for index, name in enumerate(names)]


def _latency(name: str, times: np.ndarray, ratios: np.ndarray, busy: float | None) -> Latency:
    q25, median, q75 = (float(value) for value in np.percentile(times, (25, 50, 75)))
    ratio_q25, ratio, ratio_q75 = (float(value) for value in np.percentile(ratios, (25, 50, 75)))
    low, high = median_interval(ratios.tolist()) or (None, None)
    return Latency(name, median, q25, q75, ratio, ratio_q25, ratio_q75, len(times), low, high, busy)


def _cpu_ms(call: Callable[[], object], repeats: int) -> float:
    start = time.perf_counter_ns()
    for _ in range(repeats):
        call()
    return (time.perf_counter_ns() - start) / 1e6 / repeats


def _cuda_ms(call: Callable[[], object], repeats: int) -> float:
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    start.record()
    for _ in range(repeats):
        call()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / repeats


def _warm_up(call: Callable[[], object], sample: Callable[[Callable[[], object], int], float], seconds: float) -> int:
    """Repeat the call until its time is stable; returns the number of calls in a sample."""
    end = time.perf_counter() + seconds
    count = 0
    while count < 3 or (count < WARM_UP_CALLS and time.perf_counter() < end):
        call()
        count += 1
    quickest = min(sample(call, 1) for _ in range(3))
    return max(1, round(SAMPLE_MS / max(quickest, 1e-4)))


@contextmanager
def threads_set(threads: int | None) -> Iterator[None]:
    """Set torch's number of CPU threads within a block; None leaves the number.

    Raises:
        SettingError: `threads` is no whole number of at least 1.

    >>> with threads_set(1):
    ...     torch.get_num_threads()
    1
    """
    before = torch.get_num_threads()
    if threads is not None:
        check_int("threads", threads)
    torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
