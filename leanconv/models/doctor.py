"""What is here, what is missing, and whether the core works on this machine."""

from __future__ import annotations

import importlib.metadata
import shutil
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from packaging.requirements import Requirement
from torch import nn

from leanconv.conversion.apply import convert
from leanconv.conversion.check import check
from leanconv.conversion.plan import plan
from leanconv.core.count import count
from leanconv.core.generators import torch_seed
from leanconv.core.machine import describe_machine
from leanconv.core.modes import in_eval
from leanconv.models.create import create_model
from leanconv.ops import METHODS

OLDEST_TORCH = (2, 9)
NEEDED = ("torchvision", "timm", "safetensors", "lightning", "sklearn", "pyarrow", "matplotlib", "jinja2")
FOR_DEVELOPERS = ("dev", "docs")
ADDS = {  # what each extra adds, for a reader who does not know the packages
    "onnx": "files for ONNX Runtime, and int8",
    "openvino": "files for OpenVINO, and its times",
    "coco": "detection: COCO's scores",
    "pandas": "results as data frames",
    "tensorboard": "metrics for TensorBoard",
    "wandb": "metrics for Weights & Biases",
    "int8": "int8 for OpenVINO, with accuracy control",
    "ray": "runs of a comparison or a search as jobs of a Ray cluster",
    "slurm": "runs of a comparison or a search as jobs of Slurm",
    "datasets": "folders of Hugging Face's datasets, and large parquet files",
}


@dataclass(frozen=True)
class Health:
    """What `doctor` found.

    Args:
        machine: hardware and versions, as `leanconv.core.machine.describe_machine` gives them.
        extras_missing: for each extra of leanconv the packages that are not installed, or too old.
        problems: what is wrong, each with the way out.
    """

    machine: dict[str, Any]
    extras_missing: dict[str, list[str]]
    problems: list[str]

    def __str__(self) -> str:
        lines = [f"{name}: {_text(value)}" for name, value in self.machine.items() if name != "versions"]
        lines += ["", *(f"{name} {version or 'is missing'}" for name, version in self.machine["versions"].items()), ""]
        for name, missing in self.extras_missing.items():
            state = f"needs {', '.join(missing)}: pip install 'leanconv[{name}]'" if missing else "installed"
            lines.append(f"extra {name} ({ADDS.get(name, 'see its package')}): {state}")
        if not self.extras_missing:
            lines.append("extras: not known, because leanconv is not installed here: pip install -e . in its folder")
        said = [f"problem: {problem}" for problem in self.problems] or ["all checks passed"]
        return "\n".join([*lines, "", *said])


def doctor() -> Health:
    """Look at the machine, the versions and the extras, and convert a small network with every method."""
    return Health(describe_machine(), missing_extras(), _environment() + _self_check())


def missing_extras() -> dict[str, list[str]]:
    """For each extra that leanconv declares, which of its packages are not installed, or are older than it needs."""
    try:
        declared = importlib.metadata.requires("leanconv") or []
    except importlib.metadata.PackageNotFoundError:  # run from a checkout
        return {}
    found: dict[str, list[str]] = {}
    includes: dict[str, set[str]] = {}  # extras that ask for others: leanconv[openvino]
    for requirement in map(Requirement, declared):
        extra = _extra_of(requirement)
        if extra is not None and extra not in FOR_DEVELOPERS:
            missing = found.setdefault(extra, [])
            version = _version(requirement.name)
            if requirement.name == "leanconv":
                includes.setdefault(extra, set()).update(requirement.extras)
            elif version is None:
                missing.append(requirement.name)
            elif not requirement.specifier.contains(version, prereleases=True):
                missing.append(f"{requirement.name}{requirement.specifier} instead of {version}")
    for extra, others in includes.items():
        found[extra] += [package for other in sorted(others) for package in found.get(other, [])]
    return found


def _extra_of(requirement: Requirement) -> str | None:
    """The extra that asks for a requirement: ``onnx>=1.18; extra == "onnx"``."""
    _, found, name = str(requirement.marker or "").partition("extra == ")
    return name.strip("\"' )") if found else None


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {item}" for key, item in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else "none" if value is None else str(value)


def _environment() -> list[str]:
    """What the installation lacks, each with the way out."""
    problems = []
    version = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    if version < OLDEST_TORCH:
        problems.append(f"torch {torch.__version__} is older than 2.9: pip install -U torch")
    problems += [f"{name} is missing: pip install leanconv again" for name in NEEDED if find_spec(name) is None]
    if not any(map(shutil.which, ("c++", "g++", "clang++"))):
        problems.append("no C++ compiler is found, which --compile needs on a CPU: install g++, or leave --compile out")
    return problems


def _self_check() -> list[str]:
    """Convert a small network with every method; counts must agree with the formulas and a forward pass must work."""
    with torch_seed(0):
        return _checked_methods(in_eval(create_model("resnet20")))


def _checked_methods(model: nn.Module) -> list[str]:
    problems = []
    x = torch.randn(2, 3, 32, 32)
    for method in METHODS:
        try:
            made = plan(model, method(), exclude="conv1")
            lean = in_eval(convert(model, made, "fit"))
            check(lean)
            expected = count(model).params - made.params_dense() + made.params()
            with torch.no_grad():
                finite = bool(lean(x).isfinite().all())
            if count(lean).params != expected or not finite:
                problems.append(
                    f"{method.name} gives a wrong count or no finite output here: reinstall leanconv and torch"
                )
        except Exception as error:  # whatever this machine raises is the finding
            problems.append(f"{method.name} fails here ({type(error).__name__}: {error}): reinstall leanconv and torch")
    return problems
