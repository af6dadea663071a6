"""``leanconv doctor``: what is here, what is missing, and whether the core works on this machine."""

from __future__ import annotations

from typing import Any

import typer

from leanconv.cli.options import Json
from leanconv.cli.output import show, show_json

OLDEST_TORCH = (2, 9)
EXTRAS = {
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "openvino": ("openvino",),
    "coco": ("pycocotools", "faster_coco_eval"),
    "search": ("optuna",),
    "tensorboard": ("tensorboard",),
    "webdataset": ("webdataset",),
    "datasets": ("datasets",),
}


def doctor(as_json: Json = False) -> None:
    """Show the machine, the versions and the extras, convert a small network with every method, and say what is wrong.

    Exits with 3 when something is.
    """
    from leanconv.core.machine import describe_machine

    machine = describe_machine()
    extras = {name: _missing(modules) for name, modules in EXTRAS.items()}
    problems = _environment() + _self_check()
    if as_json:
        show_json({"machine": machine, "extras_missing": extras, "problems": problems})
    else:
        versions = machine.pop("versions")
        show(*(f"{name}: {_text(value)}" for name, value in machine.items()), "")
        show(*(f"{name} {version or 'is missing'}" for name, version in versions.items()), "")
        for name, missing in extras.items():
            state = f"not installed ({', '.join(missing)}): pip install 'leanconv[{name}]'" if missing else "installed"
            show(f"extra {name}: {state}")
        show("", *(f"problem: {problem}" for problem in problems or []), *([] if problems else ["all checks passed"]))
    if problems:
        raise typer.Exit(3)


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {item}" for key, item in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else "none" if value is None else str(value)


def _missing(modules: tuple[str, ...]) -> list[str]:
    from importlib.util import find_spec

    return [module for module in modules if find_spec(module) is None]


def _environment() -> list[str]:
    """What the installation lacks, each with the way to mend it."""
    import shutil

    import torch

    problems = []
    version = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    if version < OLDEST_TORCH:
        problems.append(f"torch {torch.__version__} is older than 2.9: pip install -U torch")
    needed = ("torchvision", "timm", "safetensors", "lightning", "sklearn", "pyarrow", "matplotlib", "jinja2")
    problems += [f"{name} is missing: pip install leanconv again" for name in _missing(needed)]
    if shutil.which("c++") is None and shutil.which("g++") is None and shutil.which("clang++") is None:
        problems.append("no C++ compiler is found, which --compile needs on a CPU: install g++, or leave --compile out")
    return problems


def _self_check() -> list[str]:
    """Convert a small network with every method; counts must agree with the formulas and a forward pass must work."""
    import torch

    from leanconv.conversion.apply import convert
    from leanconv.conversion.check import check
    from leanconv.conversion.plan import plan
    from leanconv.core.count import count
    from leanconv.models import create_model
    from leanconv.ops import METHODS

    problems = []
    torch.manual_seed(0)
    model = create_model("resnet20").eval()
    x = torch.randn(2, 3, 32, 32)
    for method in METHODS:
        try:
            made = plan(model, method(), exclude="conv1")
            lean = convert(model, made, "fit").eval()
            check(lean)
            expected = count(model).params - made.params_dense() + made.params()
            with torch.no_grad():
                finite = bool(lean(x).isfinite().all())
            if count(lean).params != expected or not finite:
                problems.append(f"{method.name} gives a wrong count or no finite output here: {_way_out(method)}")
        except Exception as error:  # whatever this machine raises is the finding
            problems.append(f"{method.name} fails here ({type(error).__name__}: {error}): {_way_out(method)}")
    return problems


def _way_out(method: type[Any]) -> str:
    package = method.__module__.partition(".")[0]
    return "reinstall leanconv and torch" if package == "leanconv" else f"update {package}, which defines it"
