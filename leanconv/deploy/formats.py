"""The export formats: how each is written and run, and how much memory its weights need after loading."""

from __future__ import annotations

import importlib.util
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, load_model, save_model
from torch import Tensor, nn

from leanconv.core.copying import copied
from leanconv.core.count import unique
from leanconv.core.errors import SettingError, first_line
from leanconv.core.notes import get_task
from leanconv.core.record import get_record
from leanconv.deploy.sizes import Guard, guard_of, no_guard
from leanconv.timing.runtimes import onnx_options, openvino_core, quiet, without_telemetry

Runner = Callable[[Tensor], Tensor]
# ONNX Runtime folds each normalisation layer into a copy of the shared weight before it; without these steps it does not
KEEPS_SHARING = ("ConvBNFusion", "ConvMulFusion", "ConvAddFusion", "ConstantFolding")
OPTIONS = ".session.json"
UNLIMITED = 2**40
TASK = (
    "task"  # key in a file's own metadata: classes, mean, std and image size as JSON, for programs that serve the file
)

FORMS = "forms"  # key for the form in which each lean layer was written, by the layer's name in the network


@dataclass(frozen=True)
class Format:
    """An export format.

    Args:
        files: suffixes of the written files; the first is the file to open.
        packages: packages that the format needs.
        write: (model, example, path, compact, any_size) -> the guard of its graph (`leanconv.deploy.sizes`); the task of the
            model (`leanconv.set_task`) is written to the file's own metadata.
        run: (path, model) -> a call. It reads the options beside the file. The model is for formats without a graph.
        loaded: path -> bytes of the weights after loading; None if the runtime does not show them.
        read_task: path -> the task in the file's own metadata, as text; None without one. None for formats without a graph.
    """

    files: tuple[str, ...]
    packages: tuple[str, ...]
    write: Callable[[nn.Module, Tensor, Path, bool, bool], Guard]
    run: Callable[[Path, nn.Module], Runner]
    loaded: Callable[[Path], int | None]
    read_task: Callable[[Path], str | None] | None = None


def program_of(model: nn.Module, example: Tensor, any_size: bool = True) -> torch.export.ExportedProgram:
    """The network as a graph for any batch; with `any_size`, for any height and width that its own code allows.

    Args:
        model: the network, in eval mode.
        example: an input, (N, C, H, W).
        any_size: whether to leave height and width open.

    Raises:
        SettingError: torch.export does not support the network, or its code depends on the number of images.
    """
    name = type(model).__name__
    auto = torch.export.Dim.AUTO
    try:
        with quiet(), torch.no_grad():
            program = torch.export.export(
                model, (example,), dynamic_shapes=({0: auto, 2: auto, 3: auto} if any_size else {0: auto},)
            )
    except Exception as error:  # the exporter raises anything
        raise SettingError(f"{name} cannot be exported ({first_line(error)}); torch.export must support it") from error
    images = _most_images(program)
    if images is not None:
        raise SettingError(
            f"{name} computes over {images} images in another way, and a file holds one way; make it independent of the "
            "number of images"
        )
    return program


def _most_images(program: torch.export.ExportedProgram) -> int | None:
    """The largest number of images at which the network's code takes the same way; None without a limit."""
    (name,) = program.graph_signature.user_inputs
    size = next(node.meta["val"].shape[0] for node in program.graph.nodes if node.name == name)
    found = program.range_constraints.get(size.node.expr) if isinstance(size, torch.SymInt) else None
    return None if found is None or found.upper > UNLIMITED else int(found.upper)


def task_text(model: nn.Module) -> dict[str, str]:
    """The metadata of a file: the task of `model` under `TASK`, and the forms of its layers under `FORMS`, each as JSON.

    A network without a task, or one that `leanconv.optimize` did not make, lacks the entry.

    >>> task_text(nn.ReLU())
    {}
    """
    task, optimized = get_task(model), get_record(model).optimized
    forms = {} if optimized is None else {choice.layer: choice.form for choice in optimized.choices}
    found = {} if task is None else {TASK: task.to_json()}
    return {name: json.dumps(value) for name, value in (found | ({FORMS: forms} if forms else {})).items()}


def _write_onnx(model: nn.Module, example: Tensor, path: Path, compact: bool, any_size: bool) -> Guard:
    program = program_of(model, example, any_size)
    with quiet(), torch.no_grad():
        made = torch.onnx.export(program, dynamo=True, verbose=False, optimize=not compact)
    assert made is not None
    for node in made.model.graph.all_nodes():  # the Python source of each node is larger than a small network
        node.metadata_props.clear()
        for value in node.outputs:
            value.metadata_props.clear()
    made.model.metadata_props.update(task_text(model))
    made.save(path, external_data=False)
    path.with_suffix(OPTIONS).write_text(
        json.dumps({"disabled_optimizers": list(KEEPS_SHARING if compact else ())}) + "\n"
    )
    return guard_of(program)


def _session(path: Path, optimized: Path | None = None, threads: int | None = None) -> Any:
    import onnxruntime

    options = onnx_options(threads)
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
    beside = path.with_suffix(OPTIONS)
    settings = json.loads(beside.read_text()) if beside.exists() else {}
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"], **settings)


def _run_onnx(path: Path, model: nn.Module) -> Runner:
    return run_onnx(path)


def run_onnx(path: Path, threads: int | None = None) -> Runner:
    """An ONNX file as a call, with the session options beside the file.

    Args:
        path: the ONNX file.
        threads: CPU threads; None for one on each core.
    """
    session = _session(path, threads=threads)
    name = session.get_inputs()[0].name
    return lambda x: torch.from_numpy(session.run(None, {name: x.contiguous().numpy()})[0])


def _task_onnx(path: Path) -> str | None:
    found: dict[str, str] = _session(path).get_modelmeta().custom_metadata_map
    return found.get(TASK)


def _loaded_onnx(path: Path) -> int:
    """Constants of the graph that ONNX Runtime runs after its own optimisations."""
    import onnx

    optimized = path.with_name(f"{path.stem}.loaded.onnx")
    _session(path, optimized)
    try:
        graph = onnx.load(optimized).graph
    finally:
        optimized.unlink(missing_ok=True)
    sizes = [len(tensor.raw_data) or tensor.ByteSize() for tensor in graph.initializer]
    constants = [
        len(attribute.t.raw_data) for node in graph.node if node.op_type == "Constant" for attribute in node.attribute
    ]
    return sum(sizes) + sum(constants)


def _write_pt2(model: nn.Module, example: Tensor, path: Path, compact: bool, any_size: bool) -> Guard:
    program = program_of(model, example, any_size)
    torch.export.save(program, path, extra_files=task_text(model))
    return guard_of(program)


def _run_pt2(path: Path, model: nn.Module) -> Runner:
    module = torch.export.load(path).module()
    return lambda x: module(x)


def _task_pt2(path: Path) -> str | None:
    held = {TASK: ""}
    torch.export.load(path, extra_files=held)
    return held[TASK] or None


def _loaded_pt2(path: Path) -> int:
    program = torch.export.load(path)
    tensors = [*program.state_dict.values(), *program.constants.values()]
    return unique_bytes([tensor for tensor in tensors if isinstance(tensor, Tensor)])


def _write_openvino(model: nn.Module, example: Tensor, path: Path, compact: bool, any_size: bool) -> Guard:
    without_telemetry()
    import openvino

    program = program_of(model, example, any_size)
    with quiet():
        converted = openvino.convert_model(program)
        if not any_size:  # the conversion loses the fixed size, so the file would run at any size
            converted.reshape([-1, *example.shape[1:]])
        for name, text in task_text(model).items():
            converted.set_rt_info(text, ["leanconv", name])
        openvino.save_model(converted, path, compress_to_fp16=False)
    return guard_of(program)


def _compiled(path: Path, threads: int | None = None, shape: Sequence[int] | None = None) -> Any:
    """The file, compiled to compute in float32; the layers of an int8 file compute in int8 all the same."""
    model = openvino_core().read_model(path)
    if shape is not None:
        model.reshape(list(shape))
    settings = {"INFERENCE_PRECISION_HINT": "f32"} | ({} if threads is None else {"INFERENCE_NUM_THREADS": threads})
    return openvino_core().compile_model(model, "CPU", settings)


def _run_openvino(path: Path, model: nn.Module) -> Runner:
    return run_openvino(path)


def run_openvino(path: Path, threads: int | None = None, shape: Sequence[int] | None = None) -> Runner:
    """An OpenVINO file as a call.

    Args:
        path: the file that ends in .xml.
        threads: CPU threads; None for OpenVINO's own number.
        shape: (N, C, H, W) of all inputs, with which the network is faster; None accepts any that the file does.
    """
    compiled = _compiled(path, threads, shape)
    return lambda x: torch.from_numpy(compiled([x.contiguous().numpy()])[0])


def _task_openvino(path: Path) -> str | None:
    model, place = openvino_core().read_model(path), ["leanconv", TASK]
    return str(model.get_rt_info(place).astype(str)) if model.has_rt_info(place) else None


def _loaded_openvino(path: Path) -> int:
    """Constants of the graph that OpenVINO runs."""
    graph = _compiled(path).get_runtime_model()
    constants = [node for node in graph.get_ops() if node.get_rt_info()["layerType"].astype(str) == "Const"]
    sizes = [
        math.prod(output.get_partial_shape().to_shape()) * output.get_element_type().size
        for node in constants
        for output in node.outputs()
    ]
    return sum(sizes)


def _write_weights(model: nn.Module, example: Tensor, path: Path, compact: bool, any_size: bool) -> Guard:
    save_model(model, str(path), metadata=task_text(model))
    return no_guard


def _run_weights(path: Path, model: nn.Module) -> Runner:
    """The network with the file's weights in place of its own."""
    model = copied(model)
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.zero_()
    load_model(model, path)
    return lambda x: model(x)


def _loaded_weights(path: Path) -> int:
    return unique_bytes(list(load_file(path).values()))


def unique_bytes(tensors: Sequence[Tensor]) -> int:
    """Bytes of these tensors; one that occurs twice, or that is the same numbers in memory as another, counts once.

    >>> tensor = torch.zeros(2)
    >>> unique_bytes([tensor, tensor])
    8
    """
    return sum(tensor.numel() * tensor.element_size() for tensor in unique(tensors))


FORMATS: dict[str, Format] = {
    "onnx": Format(
        (".onnx", OPTIONS), ("onnx", "onnxscript", "onnxruntime"), _write_onnx, _run_onnx, _loaded_onnx, _task_onnx
    ),
    "pt2": Format((".pt2",), (), _write_pt2, _run_pt2, _loaded_pt2, _task_pt2),
    "openvino": Format(
        (".xml", ".bin"), ("openvino",), _write_openvino, _run_openvino, _loaded_openvino, _task_openvino
    ),
    "state-dict": Format((".safetensors",), (), _write_weights, _run_weights, _loaded_weights),
}


def check_installed(to: str) -> None:
    """Raise SettingError if a package that a format needs is not installed."""
    missing = [name for name in FORMATS[to].packages if importlib.util.find_spec(name) is None]
    if missing:
        raise SettingError(f"{to} needs {', '.join(missing)}; pip install 'leanconv[{to}]'")
