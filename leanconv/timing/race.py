"""Time networks in several runtimes and forms, and compare each network's fastest with the first network's fastest."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import torch
from torch import Tensor, nn

from leanconv.core import settings
from leanconv.core.copying import copied
from leanconv.core.errors import SettingError, first_line
from leanconv.core.layout import settled
from leanconv.core.modes import in_eval
from leanconv.timing import runtimes
from leanconv.timing.busy import warn_if_busy
from leanconv.timing.latency import Latency, threads_set, time_interleaved

AS_IS = "as it is"
Key = tuple[str, str, str]  # network, runtime, form
LONGEST = 200  # the most characters of a reason


@dataclass(frozen=True)
class Made:
    """A network in the form in which it is timed.

    Args:
        module: the network; None if it could not be brought into the form, and `failed` is then the reason.
        forms: how many lean layers run in which form.
        name: the name of the form, if it is another form than was asked for.
        failed: why the form is not the form that was asked for.
    """

    module: nn.Module | None
    forms: dict[str, int] = field(default_factory=dict)
    name: str | None = None
    failed: str | None = None


Form = Callable[[nn.Module, Tensor, str, int], Made]  # (network, example, runtime, threads) -> the network in a form


def as_it_is(network: nn.Module, example: Tensor, runtime: str, threads: int) -> Made:
    """The form that leaves the network unchanged."""
    return Made(network)


@dataclass(frozen=True)
class Entry:
    """One network in one runtime and one form.

    Args:
        network: its name.
        runtime: one of `leanconv.timing.runtimes.RUNTIMES`.
        form: "as it is", or another key of the `forms` that `race` got.
        forms: how many lean layers run in which form.
        latency: with the ratio to the fastest entry of the first network; None if the entry failed.
        best: whether the entry is the fastest of its network.
        failed: why the entry was not timed: the network failed, the runtime failed, or they do not fit together.
        compared: False if the first network failed: the ratios then compare with nothing, and `to_json` leaves them out.
    """

    network: str
    runtime: str
    form: str
    forms: dict[str, int]
    latency: Latency | None
    best: bool = False
    failed: str | None = None
    compared: bool = True

    def to_json(self) -> dict[str, Any]:
        """The entry as plain values, with the values of `latency` beside the others; they are None if it was not measured."""
        found = asdict(self)
        latency = found.pop("latency") or dict.fromkeys(field.name for field in fields(Latency))
        latency.pop("name")
        if not found.pop("compared"):
            latency |= dict.fromkeys(name for name in latency if name.startswith("ratio"))
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

    A combination that fails becomes an entry with the reason; the others are timed.

    Args:
        networks: name -> network. Copies are timed. The others are compared with the first; if that one fails, with none.
        example: an input, (N, C, H, W), on the device to run on.
        names: runtimes, of `leanconv.timing.runtimes.RUNTIMES`.
        forms: name -> the function that brings a network into that form.
        threads: CPU threads; None leaves torch's setting.
        seconds: seconds of measurement in all.
        say: called with a line for each step of the preparation.

    Raises:
        SettingError: there is no network, a runtime is unknown or not installed, `names` is a text, or a number is none.

    >>> found = race({"conv": nn.Conv2d(3, 3, 3)}, torch.zeros(1, 3, 8, 8), seconds=0.01)
    >>> found[0].form, found[0].best
    ('as it is', True)
    """
    if not networks or not names:
        raise SettingError("nothing to time: give at least one network and one runtime")
    settings.check_names("names", names)
    for name in names:
        runtimes.check(name)
    settings.check_weight("seconds", seconds)
    threads = torch.get_num_threads() if threads is None else threads
    line = _Line(example, threads, say)
    with threads_set(threads):
        for network, model in networks.items():
            for runtime in names:
                for form, make in forms.items():
                    line.prepare((network, runtime, form), model, make)
        say(f"timing {len(line.calls)} entries")
        timed = _timed(line, [*networks], seconds)
    return _entries(line, timed)


class _Line:
    """The entries that are ready to be timed, and the entries that failed."""

    def __init__(self, example: Tensor, threads: int, say: Callable[[str], None]) -> None:
        self.example, self.threads, self.say = example, threads, say
        self.order: dict[Key, None] = {}
        self.calls: dict[Key, runtimes.Call] = {}
        self.chosen: dict[Key, dict[str, int]] = {}
        self.failed: dict[Key, str] = {}
        self.copies: dict[str, tuple[nn.Module, Tensor]] = {}  # of the current network, with the example in its layout

    def prepare(self, key: Key, model: nn.Module, make: Form) -> None:
        """Bring `model` into a form and a runtime, and call it once."""
        network, runtime, form = key
        self.order[key] = None
        self.say(f"preparing {network}, {runtime}, {form}")
        try:
            own, example = self._own(network, model)
            made = make(own, example, runtime, self.threads)
            if made.failed is not None:
                self.failed[key] = made.failed[:LONGEST]
            if made.module is None:
                return
            key = (network, runtime, made.name or form)
            self.order[key] = None
            self.chosen[key] = made.forms
            self.calls[key] = runtimes.prepare(runtime, made.module, example, self.threads)
            self.calls[key]()
        except Exception as error:  # from the network's code, an exporter, a compiler or the device's memory
            self.calls.pop(key, None)
            self.failed[key] = first_line(error)[:LONGEST]
            self.say(f"{network}, {runtime}, {form} failed: {self.failed[key]}")

    def _own(self, network: str, model: nn.Module) -> tuple[nn.Module, Tensor]:
        """A copy of `model`, which all runtimes and forms share, and the example in its layout."""
        if network not in self.copies:
            own = in_eval(copied(model)).to(device=self.example.device, dtype=self.example.dtype)
            example = settled(own, self.example)
            self.copies = {network: (own, example)}
        return self.copies[network]


def _timed(line: _Line, networks: Sequence[str], seconds: float) -> dict[Key, Latency]:
    """Time all calls, with ratios to the fastest entry of the first network that runs; calls that fail now are left out."""
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
    """A call ran once before, and failed when it was timed."""

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
    compared = next(iter(line.order))[0] in {key[0] for key in timed}
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
            compared,
        )
        for key in line.order
        if key in timed or key in line.failed
    ]
