"""Networks side by side in several runtimes: the best of each against the best of the first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor, fx, nn

from leanconv.core import settings
from leanconv.core.errors import SettingError, first_line
from leanconv.core.layout import to_channels_last, with_layout
from leanconv.inference.optimize import forms_chosen, not_rewritten, optimize
from leanconv.timing import runtimes
from leanconv.timing.busy import warn_if_busy
from leanconv.timing.latency import Latency, threads_set, time_interleaved

AS_IS, OPTIMIZED, IN_PARTS = "as it is", "optimized", "optimized in parts"
Key = tuple[str, str, str]  # network, runtime, form
LONGEST = 200  # characters of a reason
CHOOSES = {"openvino": "openvino"}  # what forms are measured with; elsewhere eager, as compiling each takes long


@dataclass(frozen=True)
class Entry:
    """One network in one runtime.

    Args:
        form: "as it is", "optimized" by `leanconv.optimize`, or "optimized in parts" where it could not trace the whole
            network: then the entry for "optimized" has failed, and says why.
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
    forms: Sequence[str] = (AS_IS, OPTIMIZED),
    threads: int | None = None,
    seconds: float = 10.0,
    say: Callable[[str], None] = lambda text: None,
) -> list[Entry]:
    """Time every network in every runtime and form, all interleaved.

    What cannot be timed, for whatever reason, is an entry that says why; the others are timed.

    Args:
        networks: name -> network; the first that runs is what the others are compared with.
        names: runtimes, of `leanconv.timing.runtimes.RUNTIMES`.
        forms: "as it is", "optimized", or both. Both help the first network too: its norms are folded.
        seconds: of measuring in all.
        say: called with what is being prepared.

    Raises:
        SettingError: no network, a runtime that is not there, or a text where several names are asked for.
    """
    if not networks or not names:
        raise SettingError("nothing to time: give at least one network and one runtime")
    settings.check_names("names", names)
    settings.check_names("forms", forms)
    for name in names:
        runtimes.check(name)
    for form in forms:
        settings.check_choice("form", form, (AS_IS, OPTIMIZED))
    threads = threads or torch.get_num_threads()
    example = with_layout(example, torch.channels_last)
    calls: dict[Key, runtimes.Call] = {}
    chosen: dict[Key, dict[str, int]] = {}
    failed: dict[Key, str] = {}
    with threads_set(threads):
        for network, model in networks.items():
            ready: dict[str, nn.Module] = {}
            for runtime in names:
                for form in forms:
                    key = (network, runtime, form)
                    say(f"preparing {network}, {runtime}, {form}")
                    try:
                        made = to_channels_last(model.eval().to(device=example.device, dtype=example.dtype))
                        if form == OPTIMIZED:
                            chooser = CHOOSES.get(runtime, "eager")
                            if chooser not in ready:
                                ready[chooser] = optimize(made, example, runtime=chooser, threads=threads)
                            made = ready[chooser]
                            whole = next((left.reason for left in not_rewritten(made) if not left.name), None)
                            if whole is not None:
                                failed[key] = whole[:LONGEST]
                                if not any(isinstance(part, fx.GraphModule) for part in made.modules()):
                                    continue
                                key = (network, runtime, IN_PARTS)
                            chosen[key] = dict(Counter(choice.form for choice in forms_chosen(made)))
                        calls[key] = runtimes.prepare(runtime, made, example, threads)
                        calls[key]()
                    except Exception as error:  # the network's own code, an exporter, a compiler, the device's memory
                        calls.pop(key, None)
                        failed[key] = first_line(error)[:LONGEST]
                        say(f"{network}, {runtime}, {form} failed: {failed[key]}")
        say(f"timing {len(calls)} of them")
        order = [(network, runtime, form) for network in networks for runtime in names for form in (*forms, IN_PARTS)]
        timed = _timed(calls, failed, [*networks], example, seconds)
    return _entries(order, failed, chosen, timed)


def _timed(
    calls: dict[Key, runtimes.Call], failed: dict[Key, str], networks: Sequence[str], example: Tensor, seconds: float
) -> dict[Key, Latency]:
    """Interleaved, with the fastest entry of the first network that runs as what ratios are to; what fails now is left out."""
    while calls:
        first = next(network for network in networks if any(key[0] == network for key in calls))
        names = {"\0".join(key): key for key in calls}
        guarded = {name: _guarded(calls[key], key) for name, key in names.items()}
        base = [name for name, key in names.items() if key[0] == first]
        try:
            found = time_interleaved(guarded, device=example.device, seconds=seconds, base=base)
        except _FailedLater as error:
            failed[error.key] = first_line(error.__cause__ or error)[:LONGEST]
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


def _entries(
    order: Sequence[Key],
    failed: Mapping[Key, str],
    chosen: Mapping[Key, dict[str, int]],
    timed: Mapping[Key, Latency],
) -> list[Entry]:
    best: dict[str, float] = {}
    for key, latency in timed.items():
        best[key[0]] = min(best.get(key[0], latency.median_ms), latency.median_ms)
    return [
        Entry(
            *key,
            chosen.get(key, {}),
            timed.get(key),
            key in timed and timed[key].median_ms == best[key[0]],
            failed.get(key),
        )
        for key in order
        if key in timed or key in failed
    ]
