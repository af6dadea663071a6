"""Networks side by side in several runtimes: the best of each against the best of the first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from leanconv.bench import runtimes
from leanconv.bench.latency import Latency, threads_set, time_interleaved
from leanconv.core import settings
from leanconv.core.errors import SettingError
from leanconv.inference.optimize import forms_chosen, optimize

AS_IS, OPTIMIZED = "as it is", "optimized"
CHOOSES = {"openvino": "openvino"}  # what forms are measured with; elsewhere eager, as compiling each takes long


@dataclass(frozen=True)
class Entry:
    """One network in one runtime.

    Args:
        form: "as it is", or "optimized" by `leanconv.optimize`.
        forms: how many lean layers run in which form.
        latency: its ratio is to the fastest entry of the first network; None where it failed.
        best: whether it is the fastest of its network.
        failed: why the runtime does not run it.
    """

    network: str
    runtime: str
    form: str
    forms: dict[str, int]
    latency: Latency | None
    best: bool = False
    failed: str | None = None

    def to_json(self) -> dict[str, Any]:
        """As plain values, the latency's beside the others."""
        found = asdict(self)
        latency = found.pop("latency") or {}
        latency.pop("name", None)
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

    Args:
        networks: name -> network; the first is what the others are compared with.
        names: runtimes, of `leanconv.bench.runtimes.RUNTIMES`.
        forms: "as it is", "optimized", or both. Both help the first network too: its norms are folded.
        seconds: of measuring in all.
        say: called with what is being prepared.

    Raises:
        SettingError: no network, a runtime that is not there, or a text where several names are asked for.
    """
    if not networks or not names:
        raise SettingError("nothing to time: give at least one network and one runtime")
    settings.names("names", names)
    settings.names("forms", forms)
    threads = threads or torch.get_num_threads()
    channels_last = example.contiguous(memory_format=torch.channels_last)
    calls: dict[tuple[str, str, str], runtimes.Call] = {}
    chosen: dict[tuple[str, str, str], dict[str, int]] = {}
    failed: dict[tuple[str, str, str], str] = {}
    with threads_set(threads):
        for network, model in networks.items():
            model = model.eval().to(device=example.device, dtype=example.dtype)
            ready: dict[str, nn.Module] = {}
            for runtime in names:
                for form in forms:
                    key = (network, runtime, form)
                    say(f"preparing {network}, {runtime}, {form}")
                    made = model.to(memory_format=torch.channels_last)
                    if form == OPTIMIZED:
                        chooser = CHOOSES.get(runtime, "eager")
                        if chooser not in ready:
                            ready[chooser] = optimize(model, example, runtime=chooser, threads=threads)
                        made = ready[chooser]
                        chosen[key] = dict(Counter(choice.form for choice in forms_chosen(made)))
                    try:
                        calls[key] = runtimes.prepare(runtime, made, channels_last, threads)
                        calls[key]()
                    except SettingError:
                        raise
                    except Exception as error:  # an exporter or a compiler that does not take this network
                        calls.pop(key, None)
                        failed[key] = (str(error).splitlines() or [type(error).__name__])[0][:200]
        say(f"timing {len(calls)} of them")
        timed = _timed(calls, next(iter(networks)), example, seconds)
    return _entries(calls, failed, chosen, timed)


def _timed(
    calls: Mapping[tuple[str, str, str], runtimes.Call], first: str, example: Tensor, seconds: float
) -> dict[tuple[str, str, str], Latency]:
    """Interleaved, with the fastest entry of the first network as what ratios are to."""
    names = {"\0".join(key): key for key in calls}
    base = [name for name, key in names.items() if key[0] == first]
    if not base:
        return {}
    texts = {name: calls[key] for name, key in names.items()}
    found = time_interleaved(texts, device=example.device, seconds=seconds, base=base)
    return {names[entry.name]: entry for entry in found}


def _entries(
    calls: Mapping[tuple[str, str, str], runtimes.Call],
    failed: Mapping[tuple[str, str, str], str],
    chosen: Mapping[tuple[str, str, str], dict[str, int]],
    timed: Mapping[tuple[str, str, str], Latency],
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
        for key in (*calls, *failed)
    ]
