"""Time networks on this machine, unchanged and optimized, in every runtime, all measured side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from leanconv.conversion.apply import convert, plan_of
from leanconv.conversion.plan import Where
from leanconv.conversion.useful import stem, useful_plan
from leanconv.core.copying import copied, refuse_lazy
from leanconv.core.count import count, unique
from leanconv.core.errors import LeanconvError, SettingError
from leanconv.core.machine import provenance
from leanconv.core.meta import InputSize
from leanconv.core.method import Method
from leanconv.core.notes import input_size_of
from leanconv.core.settings import check_choice, check_int, several
from leanconv.core.wrappers import unwrapped
from leanconv.inference.race import race
from leanconv.report import latency_tables
from leanconv.report.page import Page, of_latency
from leanconv.report.result import Result
from leanconv.report.tables import Row
from leanconv.report.text_table import TextTable
from leanconv.timing import runtimes as known
from leanconv.timing.race import Entry
from leanconv.timing.summary import names_of

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
Network = nn.Module | Callable[[], nn.Module]  # a network, or the function that builds it
Say = Callable[[str], None]


@dataclass(frozen=True)
class BenchResult(Result):
    """Measured times: a row for each batch, network, runtime and form.

    Args:
        summary: the measurement as a file of ``results/`` has it: the machine, the settings and the rows.
    """

    summary: dict[str, Any]

    @property
    def rows(self) -> Sequence[Row]:
        rows: list[Row] = self.summary["rows"]
        return rows

    def table(self) -> TextTable:
        """Parameters, MACs and milliseconds; the fastest entry of each network is bold."""
        said = self.summary["settings"]
        image = "x".join(map(str, said["input_size"]))
        title = f"{image}, {said['precision']}, {said['device']}, {said['threads']} threads"
        return latency_tables.table(self.rows, title)

    def page(self) -> Page:
        return of_latency(self.summary)

    def to_json(self) -> dict[str, Any]:
        return self.summary


def bench(
    models: nn.Module | Sequence[nn.Module] | Mapping[str, Network],
    methods: Sequence[Method | None] = (None,),
    *,
    where: Where = "*",
    exclude: str | Sequence[str] = (),
    runtimes: str | Sequence[str] = ("eager",),
    batch: int | Sequence[int] = 1,
    input_size: InputSize | None = None,
    precision: str = "fp32",
    device: str = "cpu",
    threads: int | None = None,
    seconds: float = 10.0,
    progress: Say = lambda text: None,
    command: str = "leanconv.bench(...)",
) -> BenchResult:
    """Time networks, unchanged and optimized for this device, in each runtime, all interleaved.

    Ratios compare each network's fastest entry with the first network's fastest entry. An entry that fails becomes a row
    with the reason, and the others are timed. The networks themselves are not changed: copies are timed.

        result = lc.bench({"dense": model, "tied": lean}, runtimes=("eager", "openvino"), batch=(1, 16))
        result.table()                   # shown in a notebook; print(result) elsewhere
        result.report("latency.html")

    Args:
        models: networks by name, or the functions that build them; the others are compared with the first.
        methods: each network is timed under each method; None leaves it unchanged. The first convolution stays dense.
        where, exclude: which convolutions the methods convert, see `leanconv.plan`.
        runtimes: one or several of eager, compile, onnxruntime and openvino; "all" takes all that are installed. Several may
            be one text, separated by commas.
        batch: images in a call, or several such numbers.
        input_size: (channels, height, width); default: the networks' own input size.
        precision: fp32, bf16 or fp16.
        device: "cpu" or "cuda".
        threads: CPU threads; None leaves torch's setting.
        seconds: seconds of measurement for each batch size.
        progress: called with a line about the current step.
        command: the command that the result names as its origin.

    Raises:
        SettingError: no network could be built, two networks have the same name, the networks have different input sizes,
            or a setting is not one of those above.
    """
    check_choice("precision", precision, tuple(PRECISIONS))
    batches = (batch,) if isinstance(batch, int) else tuple(batch)
    for number in batches:
        check_int("batch", number)
    names = _runtimes(runtimes)
    for name in names:  # before networks are built, which may take minutes
        known.check(name)
    _check_device(device)
    built, unbuilt = _built(_named(models), methods, where, several(exclude))
    size = input_size or _size_of(built)
    dtype = PRECISIONS[precision]
    rows: list[Row] = []
    for number in batches:
        generator = torch.Generator().manual_seed(0)
        example = torch.randn(number, *size, generator=generator).to(device=device, dtype=dtype)
        timed = race(built, example, names=names, threads=threads, seconds=seconds, say=progress)
        counts = {name: _counts(name, model, size, dtype, progress) for name, model in built.items()}
        rows += [{"batch": number, **counts[entry.network], **entry.to_json()} for entry in timed]
        missing = [Entry(name, "", "", {}, None, failed=reason) for name, reason in unbuilt.items()]
        rows += [{"batch": number, "params": None, "macs": None, "weight_bytes": None, **e.to_json()} for e in missing]
    settings = {
        "input_size": list(size),
        "precision": precision,
        "device": device,
        "threads": threads or torch.get_num_threads(),
    }
    head = provenance(command)
    head["versions"] |= known.versions()
    rounds = max((row["rounds"] or 0 for row in rows), default=0)
    return BenchResult({**head, "kind": "latency", "settings": settings, "n": rounds, "seeds": [0], "rows": rows})


def _check_device(device: str) -> None:
    if device.partition(":")[0] not in ("cpu", "cuda"):
        raise SettingError(f"device={device!r} must be cpu or cuda")
    if torch.device(device).type == "cuda" and not torch.cuda.is_available():
        raise SettingError(f"device={device!r}: torch finds no GPU here; take cpu")


def _runtimes(asked: str | Sequence[str]) -> Sequence[str]:
    """The names of runtimes; "all" means those that are installed."""
    if asked == "all":
        return [name for name in known.RUNTIMES if known.available(name)]
    return [name.strip() for name in asked.split(",") if name.strip()] if isinstance(asked, str) else asked


def _named(models: nn.Module | Sequence[nn.Module] | Mapping[str, Network]) -> Mapping[str, Network]:
    if isinstance(models, Mapping):
        return models
    if not isinstance(models, Iterable):
        unwrapped(models)
    several = (models,) if isinstance(models, nn.Module) else tuple(models)
    return dict(zip(names_of(several), several, strict=True))


def _built(
    models: Mapping[str, Network], methods: Sequence[Method | None], where: Where, exclude: tuple[str, ...]
) -> tuple[dict[str, nn.Module], dict[str, str]]:
    """Every network under every method, and the networks that could not be built, with the reason."""
    networks: dict[str, nn.Module] = {}
    unbuilt: dict[str, str] = {}
    first: LeanconvError | None = None
    for name, network in models.items():
        model = network if isinstance(network, nn.Module) else None
        for method in methods:
            label = name if method is None else f"{name} {method.label()}"
            if label in networks or label in unbuilt:
                raise SettingError(f"{label} is given twice; leave one out")
            try:
                model = network() if model is None else model
                networks[label] = model if method is None else _lean(name, model, method, where, exclude)
            except LeanconvError as error:
                first, unbuilt[label] = first or error, str(error)
    if not networks and first is not None:
        raise first
    return networks, unbuilt


def _lean(name: str, model: nn.Module, method: Method, where: Where, exclude: tuple[str, ...]) -> nn.Module:
    if plan_of(model) is not None:
        raise SettingError(f"{name} is lean already; time it without --methods (methods)")
    return convert(model, useful_plan(model, method, where, (*exclude, stem(model)), input_size_of(model)))


def _size_of(networks: Mapping[str, nn.Module]) -> InputSize:
    found = {input_size_of(model) for model in networks.values()}
    size = found.pop() if len(found) == 1 else None
    if size is None:
        raise SettingError(
            f"the networks are made for images of {found or 'no known size'}; choose one with --input-size (input_size)"
        )
    return size


def _counts(name: str, model: nn.Module, size: InputSize, dtype: torch.dtype, say: Say) -> dict[str, Any]:
    """The counts, in the dtype of the measurement."""
    refuse_lazy(model)
    own = copied(model).to(dtype=dtype)
    try:
        return count(own, size).to_json()
    except LeanconvError as error:  # the network needs something that a count does not provide
        say(f"{name}: MACs are not known: {error}")
    tensors = unique([*own.parameters(), *own.buffers()])
    return {
        "params": sum(parameter.numel() for parameter in own.parameters()),
        "macs": None,
        "weight_bytes": sum(tensor.numel() * tensor.element_size() for tensor in tensors),
    }
