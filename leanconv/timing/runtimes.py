"""The runtimes of a network: PyTorch eager, compiled by inductor, ONNX Runtime, OpenVINO."""

from __future__ import annotations

import functools
import importlib.util
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from leanconv.core.copying import copied
from leanconv.core.errors import SettingError
from leanconv.core.logs import only_errors
from leanconv.core.machine import version_of
from leanconv.core.version import __version__

Call = Callable[[], Tensor]


def prepare(runtime: str, model: nn.Module, example: Tensor, threads: int | None = None) -> Call:
    """A call that runs `model` on `example` and returns its output; all work that is done once is done before.

    Args:
        runtime: one of `RUNTIMES`. "eager" and "compile" run on `example`'s device. The others run on the CPU, in float32;
            OpenVINO also runs in bfloat16.
        model: in eval mode, with one tensor as input and one as output.
        example: the input of each call.
        threads: CPU threads of ONNX Runtime and OpenVINO; None gives them torch's number. PyTorch's own number belongs to the
            process: set it around the calls.

    Raises:
        SettingError: the runtime is unknown or not installed, or does not support the network or the device.

    >>> call = prepare("eager", nn.ReLU(), torch.tensor([-1.0, 2.0]))
    >>> call().tolist()
    [0.0, 2.0]
    """
    check(runtime)
    known = PRECISIONS.get(runtime, {})
    if runtime in PACKAGES and (example.device.type != "cpu" or example.dtype not in known):
        said = " or ".join(str(dtype).removeprefix("torch.") for dtype in known)
        raise SettingError(f"runtime={runtime!r} runs here on the CPU in {said} only; use eager or compile")
    return RUNTIMES[runtime](model, example, threads or torch.get_num_threads())


def check(runtime: str) -> None:
    """Raise SettingError if `runtime` is not one of `RUNTIMES`, or is not installed.

    >>> check("eager")
    """
    if runtime not in RUNTIMES:
        raise SettingError(f"runtime={runtime!r} must be one of {', '.join(RUNTIMES)}")
    if not available(runtime):
        package, extra = PACKAGES[runtime]
        raise SettingError(f"runtime={runtime!r} needs {package}: pip install 'leanconv[{extra}]'")


def available(runtime: str) -> bool:
    """Whether the packages that `runtime` needs are installed.

    >>> available("eager")
    True
    """
    return runtime not in PACKAGES or all(
        importlib.util.find_spec(name) is not None for name in PACKAGES[runtime][0].split(" and ")
    )


def _eager(model: nn.Module, example: Tensor, threads: int) -> Call:
    def call() -> Tensor:
        with torch.inference_mode():
            out: Tensor = model(example)
            return out

    return call


def _compiled(model: nn.Module, example: Tensor, threads: int) -> Call:
    """Inductor with constant weights, which it packs once and into which it folds normalisation layers."""
    torch._dynamo.reset()
    compiled = torch.compile(model, options={"freezing": True})

    def call() -> Tensor:
        with torch.no_grad():  # freezing needs no_grad and does not work in inference_mode
            out: Tensor = compiled(example)
            return out

    call()
    return call


def _onnxruntime(model: nn.Module, example: Tensor, threads: int) -> Call:
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder, quiet():
        path = Path(folder) / "model.onnx"
        torch.onnx.export(model, (example.contiguous(),), path, dynamo=True, verbose=False)
        session = onnxruntime.InferenceSession(path, onnx_options(threads), providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: example.contiguous().numpy()}
    return lambda: torch.from_numpy(session.run(None, feed)[0])


def onnx_options(threads: int | None = None) -> Any:
    """ONNX Runtime's session options: quiet, with threads that do not spin between calls.

    Args:
        threads: CPU threads; None for one on each core.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    options.log_severity_level = 3
    # spinning threads would slow down the next measured network
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return options


def _openvino(model: nn.Module, example: Tensor, threads: int) -> Call:
    core = openvino_core()
    import openvino

    hint = PRECISIONS["openvino"][example.dtype]
    if example.dtype != torch.float32:  # OpenVINO's networks are float32; the hint sets the precision of computing
        model = copied(model).float()
    example = example.float().contiguous()
    with quiet(), torch.no_grad():
        exported = torch.export.export(model, (example,))
        converted = openvino.convert_model(exported)
    converted.reshape(list(example.shape))
    settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": hint}
    request = core.compile_model(converted, "CPU", settings).create_infer_request()
    feed = {0: example.numpy()}
    return lambda: torch.from_numpy(request.infer(feed, share_inputs=True, share_outputs=True)[0])


@functools.cache
def openvino_core() -> Any:
    """The only Core of OpenVINO in this process.

    Each Core that compiles for the CPU installs its own stack for signals. At its end it frees this stack and restores the
    earlier stack. If the lives of two Cores overlap, a freed stack remains installed, and the next signal (for example when a
    DataLoader's worker ends) kills the process.
    """
    without_telemetry()
    import openvino

    return openvino.Core()


def without_telemetry() -> None:
    """Stop OpenVINO's converter from reporting every conversion over the network and waiting for it."""
    if "openvino_telemetry" not in sys.modules:
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the warnings of exporters inside the block, which a reader of a benchmark cannot act on."""
    with only_errors("torch.onnx", "onnxscript", "openvino"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


RUNTIMES: dict[str, Callable[[nn.Module, Tensor, int], Call]] = {
    "eager": _eager,
    "compile": _compiled,
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
}
PACKAGES = {
    "onnxruntime": ("onnx and onnxscript and onnxruntime", "onnx"),
    "openvino": ("openvino", "openvino"),
}
PRECISIONS = {"onnxruntime": {torch.float32: "f32"}, "openvino": {torch.float32: "f32", torch.bfloat16: "bf16"}}


@functools.cache
def software(runtime: str) -> str:
    """The packages that decide how fast a module is in `runtime`, with their versions, in one line.

    >>> software("eager").startswith("leanconv ")
    True
    """
    names = PACKAGES[runtime][0].split(" and ") if runtime in PACKAGES else []
    found = {"leanconv": __version__, "torch": torch.__version__} | {name: versions()[name] for name in names}
    return ", ".join(f"{name} {version}" for name, version in found.items())


def versions() -> dict[str, str | None]:
    """Versions of the runtimes' packages; None for a package that is not installed.

    >>> sorted(versions())
    ['onnx', 'onnxruntime', 'onnxscript', 'openvino']
    """
    names = ("onnx", "onnxscript", "onnxruntime", "openvino")
    return {name: version_of(name) for name in names}
