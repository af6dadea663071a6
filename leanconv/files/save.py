"""Write a lean network: one safetensors file that holds everything, and a readable copy of its plan."""

from __future__ import annotations

import json
import os
import warnings
import zlib
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.fx import GraphModule

from leanconv.conversion.apply import members_of, plan_of
from leanconv.conversion.check import check
from leanconv.core.atomic import replacing, write_json
from leanconv.core.copying import refuse_lazy
from leanconv.core.errors import LeanconvWarning, SettingError
from leanconv.core.notes import get_base, get_task
from leanconv.core.record import get_record
from leanconv.core.registry import check_loadable
from leanconv.core.version import __version__
from leanconv.core.wrappers import unwrapped
from leanconv.files.origin import hidden_settings
from leanconv.files.sparse import get_sparse, pack
from leanconv.files.values import bad_values

FORMAT = 2  # 1 had no task and no sparse tensors; `leanconv.files.load` brings older files up to date
MODEL_FILE = "model.safetensors"
PLAN_FILE = "plan.json"
METADATA_KEY = "leanconv"
DTYPES = {
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8,
    torch.bool,
}  # fmt: skip
CHECKSUM_KEY = "leanconv_checksum"  # a key of its own, which older versions of leanconv do not look at


def description(model: nn.Module) -> dict[str, Any]:
    """What `load` needs besides the tensors: versions, the base network, the plan, the names that share a tensor, the task."""
    plan, task = plan_of(model), get_task(model)
    return {
        "version": FORMAT,
        "leanconv": __version__,
        "base": get_base(model),
        "plan": None if plan is None else plan.to_json(),
        "forms": hidden_settings(model),
        "ties": ties(model),
        "task": None if task is None else task.to_json(),
    }


def ties(model: nn.Module) -> dict[str, str]:
    """{name: the first name} for every state dict entry that is the same tensor as an earlier one."""
    first: dict[int, str] = {}
    tied: dict[str, str] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) in first:
            tied[name] = first[id(tensor)]
        else:
            first[id(tensor)] = name
    return tied


def save(lean: nn.Module, directory: str | os.PathLike[str], *, allow_nonfinite: bool = False) -> Path:
    """Write `lean` to ``directory/model.safetensors``, with ``plan.json`` beside it, a copy for readers.

    Every tensor is stored once, and one that `leanconv.analyse.prune_blending` thinned without its zeros. The safetensors
    file alone is enough to load from: the plan stands in its metadata, and it is renamed into place when complete, so
    that an interrupted save leaves the old file.

    Args:
        allow_nonfinite: save a network whose weights hold NaN, infinity or a negative variance, with a warning.

    Raises:
        TieError: a weight that the plan shares is not shared any more.
        SettingError: an optimised network, whose weights are expanded and whose layers have another form; a traced or
            quantised one; a layer that is lazy; a method that `load` could not find; one that answers NaN; one without weights;
            or a file in the place of the folder.
    """
    lean = unwrapped(lean)
    if get_record(lean).optimized is not None:
        raise SettingError(
            "an optimised network is not saved; save the lean network it was made from, or export this one"
        )
    refuse_unsaveable(lean)
    check(lean)
    refuse_bad_values(lean, allow_nonfinite)
    return write(lean, description(lean), directory)


def refuse_unsaveable(model: nn.Module) -> None:
    """Raise where a file of the model could not be written, or not be loaded again.

    Raises:
        SettingError: a method of its plan could not be found again; a layer is lazy, on the meta device, traced, quantised or
            compiled inside, or holds something else than tensors that safetensors can hold.
    """
    refuse_lazy(model)
    plan = plan_of(model)
    for method in {type(group.method) for group in plan.groups} if plan is not None else ():
        check_loadable(method)
    for name, module in model.named_modules():
        if "_orig_mod" in module._modules:
            raise SettingError(
                f"{name!r} runs inside torch.compile, which renames its weights; save the network before this part is "
                "compiled, or compile it in place: part.compile()"
            )
        traced = isinstance(module, GraphModule | torch.jit.ScriptModule) and any(True for _ in module.parameters())
        if traced and not members_of(module):
            raise SettingError(
                f"{f'{name!r}' if name else 'the model'} is a traced or scripted graph, which has lost the classes of its "
                "layers and, if it was lean, its plan; save the network that it was made from, or export this one"
            )
    for name, value in model.state_dict(keep_vars=True).items():
        if not isinstance(value, Tensor):
            raise SettingError(
                f"{name!r} holds a {type(value).__name__} and no tensor, as a quantised layer does; save the network before "
                "it is quantised, or export it"
            )
        if value.is_meta:
            raise SettingError(f"{name!r} has no values yet; build the network on a device, call it once, then save it")
        if value.layout != torch.strided or value.is_quantized or value.dtype not in DTYPES:
            kind = value.dtype if value.layout == torch.strided else value.layout
            raise SettingError(f"{name!r} is {kind}, which a model file does not hold; make it dense numbers first")


def refuse_bad_values(model: nn.Module, allow: bool) -> None:
    """Raise SettingError for a network that answers NaN, or warn of it where that is allowed."""
    with torch.no_grad():
        found = bad_values(model.state_dict())
    if found is not None and not allow:
        raise SettingError(
            f"{found}, so that the network answers NaN: it is not saved; save an earlier state, or allow_nonfinite=True"
        )
    if found is not None:
        warnings.warn(f"{found}; saved all the same", LeanconvWarning, stacklevel=3)


def write(model: nn.Module, info: dict[str, Any], directory: str | os.PathLike[str]) -> Path:
    """The tensors of `model` with the description `info`, as `save` writes them."""
    directory = Path(directory)
    tensors = {name: tensor for name, tensor in model.state_dict().items() if name not in info["ties"]}
    tensors, info["sparse"] = pack(tensors, tuple(name for name in get_sparse(model) if name in tensors))
    with replacing(directory / MODEL_FILE) as temporary:
        text, tensors = json.dumps(info, allow_nan=False), _separate(tensors)
        noted = {METADATA_KEY: text, CHECKSUM_KEY: crc32_of(text, tensors), "format": "pt"}
        save_file(tensors, temporary, metadata=noted)
    write_json(directory / PLAN_FILE, info)
    return directory


def crc32_of(text: str, tensors: Mapping[str, Tensor]) -> str:
    """CRC-32 over the description and every tensor's name, kind, shape and bytes: 14 ms for 100 MB."""
    value = zlib.crc32(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().contiguous()
        value = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), value)
        if tensor.numel():
            value = zlib.crc32(tensor.flatten().view(torch.uint8).numpy().data, value)
    return f"crc32:{value:08x}"


def _separate(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous CPU tensors of which no two share storage, as safetensors asks."""
    storages: dict[int, list[str]] = defaultdict(list)
    out = {}
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous(memory_format=torch.contiguous_format)
        storages[tensor.untyped_storage().data_ptr()].append(name)
        view = len(storages[tensor.untyped_storage().data_ptr()]) > 1
        out[name] = tensor.clone() if view or tensor.untyped_storage().nbytes() != tensor.nbytes else tensor
    return out
