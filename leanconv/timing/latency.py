"""Inference latency of several networks, measured side by side.

One network after the other would compare two moments of a machine, not two networks: clocks, caches and neighbours drift. So
all are timed in every round, in an order that rotates, and the ratio is taken within each round.
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

from leanconv.core.base import input_size_of
from leanconv.core.copying import copied
from leanconv.core.errors import SettingError, first_line
from leanconv.core.layout import to_layout, with_layout
from leanconv.core.paired import median_interval
from leanconv.timing.busy import Watch, warn_if_busy

# shorter calls are repeated until a sample lasts this long: a timer's and a scheduler's noise is in the microseconds
SAMPLE_MS = 2.0
WARM_UP_CALLS = 60  # until malloc keeps its pages: with fewer, large outputs are timed with their page faults
WARM_UP_SECONDS = 1.0
Progress = Callable[[int, int], None]  # is told how many are done, and how many there are
SAME = 0.005  # of a ratio: two times no further apart are the same to a user


@dataclass(frozen=True)
class Latency:
    """Milliseconds a call, and the ratio to one of the networks: medians over rounds, with quartiles.

    Args:
        ratio_low, ratio_high: 95 % confidence interval of the median of the rounds' ratios
            (`leanconv.core.paired.median_interval`); None with fewer than 6 rounds. Quartiles say how the rounds spread, and
            stay as wide however many there are; this says how well the median is known.
        busy: the part of the CPUs that other programs used meanwhile; None where the system does not say.
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
        """How it stands to the network that its ratio is to; None where the rounds cannot tell the two apart."""
        return apart(self.ratio_low, self.ratio_high)


def apart(low: float | None, high: float | None, same: float = SAME) -> Literal["faster", "slower"] | None:
    """What a confidence interval of a ratio of two times says: all of it below 1, all above, or neither.

    Args:
        same: ratios nearer to 1 than this say nothing.
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
    dtype: torch.dtype = torch.float32,
    channels_last: bool = False,
    compile: bool = False,
    threads: int | None = None,
    min_rounds: int = 20,
    seconds: float = 5.0,
) -> list[Latency]:
    """Time one forward pass of each of `models`, interleaved; ratios are to the first.

    Args:
        models: name -> network (a copy is timed: in eval mode, on `device`, in `dtype`) or any callable, taken as it is.
        input_size: (channels, height, width); default: what the first model was made for.
        batch: images a call; the latency is that of the whole batch.
        compile: compile the copies first, with inductor.
        threads: CPU threads while measuring; None leaves torch's setting.
        min_rounds, seconds: measure for `seconds` in all, warm-up aside, but never fewer than `min_rounds` rounds.

    Raises:
        SettingError: no input size is known, or a network does not run on that input.
    """
    device = torch.device(device)
    if device.type not in ("cpu", "cuda"):
        raise SettingError(f"device={str(device)!r} cannot be timed; use 'cpu' or 'cuda'")
    first = next(iter(models.values()), None)
    size = input_size or (input_size_of(first) if isinstance(first, nn.Module) else None)
    if size is None:
        raise SettingError("input_size=None and the first network does not say its own; give (channels, height, width)")
    if batch < 1:
        raise SettingError(f"batch={batch} must be at least 1")
    layout = torch.channels_last if channels_last else torch.contiguous_format
    generator = torch.Generator().manual_seed(0)
    x = with_layout(torch.randn(batch, *size, generator=generator).to(device, dtype), layout)

    def call_of(name: str, model: nn.Module | Callable[[Tensor], object]) -> Callable[[], object]:
        if isinstance(model, nn.Module):
            model = to_layout(copied(model).eval().to(device=device, dtype=dtype), layout)
            if compile:
                model.compile()
        try:
            model(x)
        except Exception as error:  # the network's own code, which raises what it likes
            raise SettingError(
                f"{name} does not run on an input of {tuple(x.shape)}: {first_line(error)}; check input_size"
            ) from error
        return lambda: model(x)

    with threads_set(threads), torch.inference_mode():
        calls = {name: call_of(name, model) for name, model in models.items()}
        found = time_interleaved(calls, device=device, min_rounds=min_rounds, seconds=seconds)
    if found:
        warn_if_busy(found[0].busy)
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
    """Time `calls` in rounds; each sample follows one untimed call, so that the last network's cache is not in it.

    Args:
        warm_up: seconds that each is called before, at most.
        base: ratios are to the fastest of these; None for the first.
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
    """Call until settled, and return how many calls make a sample."""
    end = time.perf_counter() + seconds
    count = 0
    while count < 3 or (count < WARM_UP_CALLS and time.perf_counter() < end):
        call()
        count += 1
    quickest = min(sample(call, 1) for _ in range(3))
    return max(1, round(SAMPLE_MS / max(quickest, 1e-4)))


@contextmanager
def threads_set(threads: int | None) -> Iterator[None]:
    """torch's CPU threads within a block; None leaves them.

    Raises:
        SettingError: fewer than one.
    """
    before = torch.get_num_threads()
    if threads is not None and threads < 1:
        raise SettingError(f"threads={threads} must be at least 1")
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
