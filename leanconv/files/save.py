"""Save a lean network: one safetensors file that holds everything, and a readable copy of its plan."""

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
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.fx import GraphModule

from leanconv.conversion.apply import members_of, plan_of
from leanconv.conversion.channel_plan import channel_plans
from leanconv.conversion.check import check
from leanconv.core.atomic import replacing, write_json
from leanconv.core.copying import refuse_lazy
from leanconv.core.errors import LeanconvWarning, SettingError
from leanconv.core.notes import get_base, get_task
from leanconv.core.record import get_record
from leanconv.core.registry import check_loadable
from leanconv.core.settings import check_path
from leanconv.core.storage import memory_of
from leanconv.core.version import __version__
from leanconv.core.wrappers import unwrapped
from leanconv.files.layers import changed_layer, layer_codes
from leanconv.files.origin import hidden_settings
from leanconv.files.sparse import get_sparse, pack
from leanconv.files.values import bad_values

FORMAT = (
    4  # 1 had no task and no sparse tensors, 2 no channel plans, 3 another default; `leanconv.files.load` updates them
)
MODEL_FILE = "model.safetensors"
PLAN_FILE = "plan.json"
METADATA_KEY = "leanconv"
DTYPES = {
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8,
    torch.bool,
}  # fmt: skip
CHECKSUM_KEY = "leanconv_checksum"  # a separate key, which older versions of leanconv ignore


def description(model: nn.Module) -> dict[str, Any]:
    """What `load` needs besides the tensors: versions, the base network, the plans, the names of tied tensors, the task."""
    plan, task = plan_of(model), get_task(model)
    return {
        "version": FORMAT,
        "leanconv": __version__,
        "base": get_base(model),
        "layers": layer_codes(model),
        "channels": [made.to_json() for made in channel_plans(model)],
        "plan": None if plan is None else plan.to_json(),
        "forms": hidden_settings(model),
        "ties": ties(model),
        "task": None if task is None else task.to_json(),
    }


def ties(model: nn.Module) -> dict[str, str]:
    """{name: the first name} for every state dict entry that is the same tensor in memory as an earlier entry.

    >>> layer = nn.Linear(2, 2)
    >>> ties(nn.Sequential(layer, layer))
    {'1.weight': '0.weight', '1.bias': '0.bias'}
    """
    first: dict[Any, str] = {}
    tied: dict[str, str] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        key = memory_of(tensor) if isinstance(tensor, Tensor) else id(tensor)
        if key in first:
            tied[name] = first[key]
        else:
            first[key] = name
    return tied


def save(lean: nn.Module, directory: str | os.PathLike[str], *, allow_nonfinite: bool = False) -> Path:
    """Write `lean` to ``directory/model.safetensors``, with a readable copy of its plan in ``plan.json``.

    Every tensor is stored once. A tensor that `leanconv.analyse.prune_blending` pruned is stored without its zeros. `load`
    needs only the safetensors file, because the plan is also in its metadata. The file is renamed into place when it is
    complete, so an interrupted save leaves the old file. The file holds no code: of a network that was built by name, it names
    the builder, unless layers were changed afterwards. A warning then says that `load` needs the network.

    Args:
        directory: the folder; it is created if it does not exist.
        allow_nonfinite: save a network whose weights hold NaN, infinity or a negative variance, with a warning.

    Returns:
        the folder.

    Raises:
        TieError: a weight that the plan shares is no longer shared.
        SettingError: the network is optimised (its weights are expanded and its layers have another form), traced, quantised
            or without weights; a layer is lazy; `load` could not find a method; the network outputs NaN; or `directory` is
            a file or no path.

    >>> import leanconv as lc
    >>> folder = lc.save(lc.create_model("resnet20"), "plain")
    >>> sorted(path.name for path in folder.iterdir())
    ['model.safetensors', 'plan.json']
    """
    lean = unwrapped(lean)
    if get_record(lean).optimized is not None:
        raise SettingError("an optimised network is not saved; save the lean network instead, or export this one")
    refuse_unsaveable(lean)
    check(lean)
    refuse_bad_values(lean, allow_nonfinite)
    info = description(lean)
    changed = changed_layer(lean)
    if changed is not None:
        info["base"] = None
        warnings.warn(
            f"this {get_base(lean)['name']} was changed after it was built: {changed}. The file does not hold its "  # type: ignore[index]
            "code, so build and change the network again, and hand it in: leanconv.load(directory, model=network)",
            LeanconvWarning,
            stacklevel=2,
        )
    return write(lean, info, directory)


def refuse_unsaveable(model: nn.Module) -> None:
    """Raise an error if a file of the model could not be written, or could not be loaded again.

    Raises:
        SettingError: `load` could not find a method of its plan; a layer is lazy, on the meta device, traced, quantised or
            compiled inside; or an entry is not a tensor, or of a type that safetensors does not hold.
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
                "layers and, if it was lean, its plan; save the network before it is traced, or export this one"
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
    """Raise SettingError for a network that outputs NaN, or warn if `allow` is true."""
    with torch.no_grad():
        found = bad_values(model.state_dict())
    if found is not None and not allow:
        raise SettingError(
            f"{found}, so the network outputs NaN and is not saved; save an earlier state, or allow_nonfinite=True"
        )
    if found is not None:
        warnings.warn(f"{found}; saved because of allow_nonfinite=True", LeanconvWarning, stacklevel=3)


def write(model: nn.Module, info: dict[str, Any], directory: str | os.PathLike[str]) -> Path:
    """Write the tensors of `model` with the description `info`, as `save` does; returns the folder.

    Args:
        model: the network.
        info: the result of `description`; its ``ties`` are not stored, and its ``sparse`` is set.
        directory: the folder.

    Raises:
        SettingError: the folder has a ``model.safetensors`` that leanconv did not write.
    """
    directory = check_path("directory", directory)
    if (directory / MODEL_FILE).exists() and not written_here(directory / MODEL_FILE):
        raise SettingError(f"leanconv did not write {directory / MODEL_FILE} and keeps it; choose another folder")
    tensors = {name: tensor for name, tensor in model.state_dict().items() if name not in info["ties"]}
    tensors, info["sparse"] = pack(tensors, tuple(name for name in get_sparse(model) if name in tensors))
    with replacing(directory / MODEL_FILE) as temporary:
        text, tensors = json.dumps(info, allow_nan=False), _separate(tensors)
        noted = {METADATA_KEY: text, CHECKSUM_KEY: crc32_of(text, tensors), "format": "pt"}
        save_file(tensors, temporary, metadata=noted)
    write_json(directory / PLAN_FILE, info)
    return directory


def written_here(path: Path) -> bool:
    """Whether a file holds a network that leanconv wrote."""
    try:
        with safe_open(path, "pt") as file:
            return METADATA_KEY in (file.metadata() or {})
    except (OSError, SafetensorError):
        return False


def crc32_of(text: str, tensors: Mapping[str, Tensor]) -> str:
    """CRC-32 over the description and every tensor's name, type, shape and bytes; 100 MB take 14 ms.

    >>> crc32_of("{}", {"weight": torch.zeros(2)})[:6]
    'crc32:'
    """
    value = zlib.crc32(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().contiguous()
        value = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), value)
        if tensor.numel():
            value = zlib.crc32(tensor.flatten().view(torch.uint8).numpy().data, value)
    return f"crc32:{value:08x}"


def _separate(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous CPU tensors, of which no two share storage, as safetensors requires."""
    storages: dict[int, list[str]] = defaultdict(list)
    out = {}
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous(memory_format=torch.contiguous_format)
        storages[tensor.untyped_storage().data_ptr()].append(name)
        view = len(storages[tensor.untyped_storage().data_ptr()]) > 1
        out[name] = tensor.clone() if view or tensor.untyped_storage().nbytes() != tensor.nbytes else tensor
    return out
