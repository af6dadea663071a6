"""Latency: ratios survive a drifting machine, and measuring leaves no trace."""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from leanconv.core.errors import SettingError
from leanconv.models import create_model
from leanconv.timing import latency
from leanconv.timing.latency import measure_latency, time_interleaved


class Clock:
    """A clock that only the timed calls move, and that runs slower the longer it runs."""

    def __init__(self, drift: float) -> None:
        self.now = 0.0
        self.pace = 1.0
        self.drift = drift
        self.order: list[str] = []

    def call(self, name: str, cost_ms: float) -> Callable[[], None]:
        def work() -> None:
            self.order.append(name)
            self.now += cost_ms * self.pace
            self.pace *= self.drift

        return work


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "WARM_UP_CALLS", 3)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch, quick: None) -> Clock:
    clock = Clock(drift=1.001)
    monkeypatch.setattr(time, "perf_counter_ns", lambda: int(clock.now * 1e6))
    return clock


def test_ratio_of_a_drifting_machine(clock: Clock) -> None:
    calls = {"dense": clock.call("dense", 4.0), "lean": clock.call("lean", 2.0), "slow": clock.call("slow", 12.0)}
    dense, lean, slow = time_interleaved(calls, min_rounds=60, seconds=0)
    assert dense.rounds == 60
    assert dense.q75_ms > 1.1 * dense.q25_ms  # the drift is in the milliseconds
    assert (dense.ratio, dense.ratio_q25, dense.ratio_q75) == (1, 1, 1)
    assert lean.ratio == pytest.approx(0.5, rel=0.005)  # and not in the ratios
    assert slow.ratio == pytest.approx(3.0, rel=0.005)
    assert lean.ratio_q25 <= lean.ratio <= lean.ratio_q75
    assert slow.q25_ms < slow.median_ms < slow.q75_ms


def test_the_interval_of_a_ratio_narrows_with_the_rounds(clock: Clock) -> None:
    """Quartiles do not: they say how the rounds spread."""
    noise = random.Random(0)

    def jittery(name: str, cost_ms: float) -> Callable[[], None]:
        return lambda: clock.call(name, cost_ms * noise.lognormvariate(0, 0.3))()

    widths, spreads = [], []
    for rounds in (12, 200):
        _, same = time_interleaved({"a": jittery("a", 4.0), "b": jittery("b", 4.0)}, min_rounds=rounds, seconds=0)
        assert same.ratio_low <= same.ratio <= same.ratio_high and same.apart is None
        widths.append(same.ratio_high - same.ratio_low)
        spreads.append(same.ratio_q75 - same.ratio_q25)
    assert widths[1] < 0.5 * widths[0] and spreads[1] > 0.5 * spreads[0]
    _, less = time_interleaved({"a": jittery("a", 4.0), "b": jittery("b", 3.4)}, min_rounds=200, seconds=0)
    assert less.apart == "faster" and less.ratio_q75 > 1, "told apart where the quartiles hold 1"
    _, more = time_interleaved({"a": jittery("a", 4.0), "b": jittery("b", 5.0)}, min_rounds=200, seconds=0)
    assert more.apart == "slower"


def test_too_few_rounds_tell_nothing(clock: Clock) -> None:
    calls = {"dense": clock.call("dense", 4.0), "lean": clock.call("lean", 2.0)}
    _, lean = time_interleaved(calls, min_rounds=5, seconds=0)
    assert (lean.ratio_low, lean.ratio_high, lean.apart) == (None, None, None)


def test_every_round_times_all_and_rotates(clock: Clock) -> None:
    calls = {name: clock.call(name, 5.0) for name in "abc"}
    time_interleaved(calls, min_rounds=4, seconds=0)
    # an untimed and a timed call for each in turn, after the warm-up
    assert "".join(clock.order[-24:]) == "aabbcc" + "bbccaa" + "ccaabb" + "aabbcc"


def test_short_calls_are_repeated(clock: Clock) -> None:
    clock.drift = 1.0
    calls = {"short": clock.call("short", 0.1), "long": clock.call("long", 3.0)}
    short, long = time_interleaved(calls, min_rounds=2, seconds=0)
    assert "".join(name[0] for name in clock.order[-23:]) == "ll" + "s" * 21
    assert short.median_ms == pytest.approx(0.1)
    assert long.median_ms == pytest.approx(3.0)


def test_twice_the_sleep_is_twice_the_time(quick: None) -> None:
    def sleeper(seconds: float) -> Callable[[Tensor], Tensor]:
        def call(x: Tensor) -> Tensor:
            time.sleep(seconds)
            return x

        return call

    one, two = measure_latency({"one": sleeper(0.01), "two": sleeper(0.02)}, (3, 8, 8), min_rounds=9, seconds=0)
    assert (one.name, two.name) == ("one", "two")
    assert one.median_ms >= 10 and two.median_ms >= 20
    assert two.ratio == pytest.approx(2.0, abs=0.5)


def test_keeps_on_for_the_time_given(quick: None) -> None:
    (only,) = time_interleaved({"sleep": lambda: time.sleep(0.002)}, min_rounds=1, seconds=0.1)
    assert only.rounds > 5


class Watch(nn.Module):
    """Notes what it was called with on a list that copies share."""

    def __init__(self, seen: list[object]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.seen = (seen,)

    def forward(self, x: Tensor) -> Tensor:
        self.seen[0].append(
            (
                tuple(x.shape),
                x.dtype,
                x.is_contiguous(memory_format=torch.channels_last),
                self.conv.weight.is_contiguous(memory_format=torch.channels_last),
                self.training,
                torch.is_inference_mode_enabled(),
                torch.get_num_threads(),
            )
        )
        return self.conv(x)

    def __deepcopy__(self, memo: dict[int, object]) -> Watch:
        twin = Watch(self.seen[0])
        twin.load_state_dict(self.state_dict())
        return twin


def test_settings_reach_the_model_and_leave_no_trace(quick: None) -> None:
    seen: list[object] = []
    model = Watch(seen)
    threads, collecting = torch.get_num_threads(), gc.isenabled()
    measure_latency(
        {"watch": model},
        (3, 9, 7),
        batch=2,
        dtype=torch.bfloat16,
        channels_last=True,
        threads=3,
        min_rounds=2,
        seconds=0,
    )
    assert set(seen) == {((2, 3, 9, 7), torch.bfloat16, True, True, False, True, 3)}
    assert model.training and model.conv.weight.dtype == torch.float32 and model.conv.weight.is_contiguous()
    assert (torch.get_num_threads(), gc.isenabled()) == (threads, collecting)


def test_state_is_restored_after_a_failure(quick: None) -> None:
    def broken() -> None:
        raise ZeroDivisionError

    threads = torch.get_num_threads()
    with pytest.raises(ZeroDivisionError):
        time_interleaved({"broken": broken})
    with pytest.raises(SettingError):
        measure_latency({"conv": nn.Conv2d(3, 4, 3)}, (5, 8, 8), threads=threads + 1)
    assert gc.isenabled() and torch.get_num_threads() == threads


def test_real_networks_in_order_of_their_size(quick: None) -> None:
    big, small = measure_latency(
        {"big": create_model("resnet20"), "small": create_model("resnet20", width=4)}, batch=8, min_rounds=9, seconds=0
    )
    assert big.ratio == 1 and small.ratio < 0.9
    assert 0 < small.median_ms < big.median_ms


@pytest.mark.parametrize(
    ("model", "settings", "says"),
    [
        (nn.Identity(), {}, "input_size=None"),
        (nn.Conv2d(3, 4, 3), {"input_size": (5, 8, 8)}, r"conv does not run on an input of \(1, 5, 8, 8\)"),
        (nn.Identity(), {"input_size": (3, 8, 8), "device": "meta"}, "device='meta'"),
        (nn.Identity(), {"input_size": (3, 8, 8), "threads": 0}, "threads=0"),
        (nn.Identity(), {"input_size": (3, 8, 8), "min_rounds": 0}, "min_rounds=0"),
        (nn.Identity(), {"input_size": (3, 8, 8), "batch": 0}, "batch=0"),
    ],
)
def test_errors(model: nn.Module, settings: dict[str, object], says: str) -> None:
    with pytest.raises(SettingError, match=says) as caught:
        measure_latency({"conv": model}, **settings)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_nothing_to_time() -> None:
    assert time_interleaved({}) == []
