"""Networks side by side in several runtimes and forms: the best of each against the best of the first."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import torch
from torch import Tensor, nn

from leanconv.core import settings
from leanconv.core.copying import copied
from leanconv.core.errors import SettingError, first_line
from leanconv.core.layout import to_channels_last, with_layout
from leanconv.timing import runtimes
from leanconv.timing.busy import warn_if_busy
from leanconv.timing.latency import Latency, threads_set, time_interleaved

AS_IS = "as it is"
Key = tuple[str, str, str]  # network, runtime, form
LONGEST = 200  # characters of a reason


@dataclass(frozen=True)
class Made:
    """A network in the form that it is to be timed in.

    Args:
        module: None where there is none, and `failed` says why.
        forms: how many lean layers run in which form.
        name: of the form, where it is another one than was asked for.
        failed: why it is not the form that was asked for.
    """

    module: nn.Module | None
    forms: dict[str, int] = field(default_factory=dict)
    name: str | None = None
    failed: str | None = None


Form = Callable[[nn.Module, Tensor, str, int], Made]  # of a network, an example, a runtime and a number of threads


def as_it_is(network: nn.Module, example: Tensor, runtime: str, threads: int) -> Made:
    """The network, unchanged."""
    return Made(network)


@dataclass(frozen=True)
class Entry:
    """One network in one runtime.

    Args:
        form: "as it is", or what `race` was given others under.
        forms: how many lean layers run in which form.
        latency: its ratio is to the fastest entry of the first network that runs; None where it failed.
        best: whether it is the fastest of its network.
        failed: why it was not timed: the network, the runtime, or the two together.
    """

    network: str
    runtime: str
    form: str
    forms: dict[str, int]
    latency: Latency | None
    best: bool = False
    failed: str | None = None

    def to_json(self) -> dict[str, Any]:
        """As plain values, the latency's beside the others; None for each where it was not measured."""
        found = asdict(self)
        latency = found.pop("latency") or dict.fromkeys(field.name for field in fields(Latency))
        latency.pop("name")
        return found | {
            {"median_ms": "latency_ms", "q25_ms": "latency_ms_q25", "q75_ms": "latency_ms_q75"}.get(key, key): value
            for key, value in latency.items()
        }


def race(
    networks: Mapping[str, nn.Module],
    example: Tensor,
    *,
    names: Sequence[str] = ("eager",),
    forms: Mapping[str, Form] = {AS_IS: as_it_is},
    threads: int | None = None,
    seconds: float = 10.0,
    say: Callable[[str], None] = lambda text: None,
) -> list[Entry]:
    """Time every network in every runtime and form, all interleaved.

    What cannot be timed, for whatever reason, is an entry that says why; the others are timed.

    Args:
        networks: name -> network, of which a copy is timed; the first that runs is what the others are compared with.
        names: runtimes, of `leanconv.timing.runtimes.RUNTIMES`.
        forms: name -> what brings a network into that form.
        seconds: of measuring in all.
        say: called with what is being prepared.

    Raises:
        SettingError: no network, a runtime that is not there, or a text where several names are asked for.
    """
    if not networks or not names:
        raise SettingError("nothing to time: give at least one network and one runtime")
    settings.check_names("names", names)
    for name in names:
        runtimes.check(name)
    threads = threads or torch.get_num_threads()
    example = with_layout(example, torch.channels_last)
    line = _Line(example, threads, say)
    with threads_set(threads):
        for network, model in networks.items():
            for runtime in names:
                for form, make in forms.items():
                    line.prepare((network, runtime, form), model, make)
        say(f"timing {len(line.calls)} of them")
        timed = _timed(line, [*networks], seconds)
    return _entries(line, timed)


class _Line:
    """What stands ready to be timed, and what could not be made ready."""

    def __init__(self, example: Tensor, threads: int, say: Callable[[str], None]) -> None:
        self.example, self.threads, self.say = example, threads, say
        self.order: dict[Key, None] = {}
        self.calls: dict[Key, runtimes.Call] = {}
        self.chosen: dict[Key, dict[str, int]] = {}
        self.failed: dict[Key, str] = {}
        self.copies: dict[str, nn.Module] = {}  # of the network at hand

    def prepare(self, key: Key, model: nn.Module, make: Form) -> None:
        """Bring `model` into a form and a runtime, and call it once."""
        network, runtime, form = key
        self.order[key] = None
        self.say(f"preparing {network}, {runtime}, {form}")
        try:
            made = make(self._own(network, model), self.example, runtime, self.threads)
            if made.failed is not None:
                self.failed[key] = made.failed[:LONGEST]
            if made.module is None:
                return
            key = (network, runtime, made.name or form)
            self.order[key] = None
            self.chosen[key] = made.forms
            self.calls[key] = runtimes.prepare(runtime, made.module, self.example, self.threads)
            self.calls[key]()
        except Exception as error:  # the network's own code, an exporter, a compiler, the device's memory
            self.calls.pop(key, None)
            self.failed[key] = first_line(error)[:LONGEST]
            self.say(f"{network}, {runtime}, {form} failed: {self.failed[key]}")

    def _own(self, network: str, model: nn.Module) -> nn.Module:
        """A copy of `model`, the same one for all runtimes and forms."""
        if network not in self.copies:
            own = copied(model).eval().to(device=self.example.device, dtype=self.example.dtype)
            self.copies = {network: to_channels_last(own)}
        return self.copies[network]


def _timed(line: _Line, networks: Sequence[str], seconds: float) -> dict[Key, Latency]:
    """Interleaved, with the fastest entry of the first network that runs as what ratios are to; what fails now is left out."""
    calls = line.calls
    while calls:
        first = next(network for network in networks if any(key[0] == network for key in calls))
        names = {"\0".join(key): key for key in calls}
        guarded = {name: _guarded(calls[key], key) for name, key in names.items()}
        base = [name for name, key in names.items() if key[0] == first]
        try:
            found = time_interleaved(guarded, device=line.example.device, seconds=seconds, base=base)
        except _FailedLater as error:
            line.failed[error.key] = first_line(error.__cause__ or error)[:LONGEST]
            del calls[error.key]
            continue
        warn_if_busy(found[0].busy)
        return {names[entry.name]: entry for entry in found}
    return {}


class _FailedLater(Exception):
    """A call that had run once and failed when it was timed."""

    def __init__(self, key: Key) -> None:
        super().__init__(*key)
        self.key = key


def _guarded(call: runtimes.Call, key: Key) -> Callable[[], object]:
    def guarded() -> object:
        try:
            return call()
        except Exception as error:
            raise _FailedLater(key) from error

    return guarded


def _entries(line: _Line, timed: Mapping[Key, Latency]) -> list[Entry]:
    best: dict[str, float] = {}
    for key, latency in timed.items():
        best[key[0]] = min(best.get(key[0], latency.median_ms), latency.median_ms)
    return [
        Entry(
            *key,
            line.chosen.get(key, {}),
            timed.get(key),
            key in timed and timed[key].median_ms == best[key[0]],
            line.failed.get(key),
        )
        for key in line.order
        if key in timed or key in line.failed
    ]
