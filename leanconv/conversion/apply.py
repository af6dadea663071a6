"""Conversion of a copy of a model by a plan."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import fields, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from leanconv.conversion.calibrate import has_norms, reestimate_norms_
from leanconv.conversion.faults import Layer, carry, mixed, spec_of
from leanconv.conversion.moments import Progress, again
from leanconv.conversion.plan import Plan, Rule, Where
from leanconv.conversion.plan import plan as make_plan
from leanconv.conversion.questions import warn_of_other_code
from leanconv.conversion.sites import Reasons
from leanconv.conversion.targets import Target, in_order, targets
from leanconv.core.copying import copied, refuse_meta
from leanconv.core.errors import LeanconvWarning, SettingError
from leanconv.core.finite import check_finite
from leanconv.core.layout import is_channels_last, to_channels_last
from leanconv.core.linear import LeanLinear, pointwise
from leanconv.core.meta import refuse_inference
from leanconv.core.method import Group, Method, Site
from leanconv.core.operator import ConvOp
from leanconv.core.pointwise import wrapped
from leanconv.core.record import Member, get_record, set_record
from leanconv.core.sharing import borrowed
from leanconv.core.wrappers import unwrapped

Init = Literal["fresh", "fit"]


def members_of(model: nn.Module) -> dict[str, Member]:
    """The converted layers of `model` by name, each with its place in its plan."""
    ours = ((name, module) for name, module in model.named_modules() if isinstance(module, ConvOp | LeanLinear))
    found = {name: get_record(module).member for name, module in ours}
    return {name: member for name, member in found.items() if member is not None}


def plan_of(model: nn.Module) -> Plan | None:
    """The plan of a converted model; None for other models. A wrapped model gives the plan of the network inside.

    If `model` contains a converted network, or is a part or a copy without the plan on its root, the plan is built from the
    records of the converted layers, under their present names. Incomplete groups are left out; `leanconv.check` refuses them.
    """
    model = unwrapped(model)
    noted = get_record(model).plan
    assert noted is None or isinstance(noted, Plan)
    planned = {site.name for group in noted.groups for site in group.sites} if noted else set()
    members: dict[int, dict[int, tuple[str, Group]]] = {}
    for name, member in members_of(model).items():
        if name not in planned:
            members.setdefault(id(member.group), {})[member.index] = name, member.group
    groups = []
    for found in members.values():
        group = next(iter(found.values()))[1]
        if len(found) == len(group.sites):
            sites = tuple(replace(site, name=found[index][0]) for index, site in enumerate(group.sites))
            groups.append(replace(group, sites=sites))
    if not groups:
        return noted
    return Plan(tuple(groups), ()) if noted is None else replace(noted, groups=(*noted.groups, *groups))


def set_plan(model: nn.Module, plan: Plan | None) -> None:
    """Record on `model` the plan by which `model` was converted."""
    set_record(model, replace(get_record(model), plan=plan))


def convert(
    model: nn.Module,
    plan: Plan | Method | Sequence[Rule],
    init: Init = "fresh",
    *,
    data: Iterable[Any] | None = None,
    sequential: bool = False,
    teacher: nn.Module | None = None,
    progress: Progress | None = None,
    where: Where = "*",
    exclude: Where = (),
    **settings: Any,
) -> nn.Module:
    """A converted copy of `model` with its plan; `model` itself is not changed.

    Each new module takes over device, dtype, memory format, training flag and ``requires_grad`` of the layer that it
    replaces. (A shared weight is trained if the weight of one of the layers was trained.) A layer with several names stays
    one module with all names. Everything else is copied. For a wrapper (`DataParallel`, an averaged or compiled model), the
    result is a copy of the network inside.

    Args:
        plan: the result of `leanconv.plan`, or a method or rules, from which this function makes the plan.
        init: ``"fresh"`` initialises the new weights, for training from scratch. ``"fit"`` sets the nearest weights to the
            dense weights, as a start for training. Without `data`, the accuracy is then far below the accuracy of the dense
            network.
        data: with ``init="fit"``, batches of images on which the outputs of the layers are to be near the dense ones, such as
            a DataLoader of some hundred training images: tensors (N, C, H, W), or pairs of such a tensor and anything. Call
            `leanconv.reestimate_norms_` with the same images afterwards.
        sequential: fit the groups of layers in the order in which the network calls them, each to the dense outputs, given
            the inputs that the lean layers before it produce. Batch norms are estimated again behind each group, as
            `leanconv.reestimate_norms_` does, and so the result needs no further estimate. It reads `data` twice for each group.
        teacher: with `data`, the dense network to whose outputs the layers are fitted, by default `model`. It may have more
            blocks than `model`; the layers have the same names and shapes in both.
        progress: with `data`, called with the number of fitted groups and the number of all groups.
        where, exclude, settings: arguments of `leanconv.plan`, if `plan` is a method or rules.

    Raises:
        SettingError: the plan was made for another model, a layer has changed and cannot be replaced, or has an attribute of
            the network's author whose name the lean layer uses, the model cannot be copied, or is already lean; `data`
            without ``init="fit"``, or `sequential` without `data`.
        DataError: `data` has no batch, the network does not take one, or the inputs of a layer are not finite.

    Warns:
        LeanconvWarning: the plan converts nothing, a method keeps its fit to the weights although there is `data`, or the
            network's forward asks for the class of a layer, and does something else with lean layers.

    >>> import leanconv as lc
    >>> lean = convert(nn.Conv2d(16, 32, 3), lc.TiedBlock(blocks=4))
    >>> lean.weight.shape
    torch.Size([8, 4, 3, 3])
    """
    _check_init(init, data, sequential or teacher is not None)
    model = unwrapped(model)
    if plan_of(model) is not None:
        raise SettingError(
            "the model is lean already; plan the dense model once, with rules [(where, method), ...] for several methods"
        )
    if not isinstance(plan, Plan):
        plan = make_plan(model, plan, where, exclude=exclude, **settings)
    elif settings or where != "*" or exclude != ():
        raise SettingError(
            "where, exclude and other settings are for planning, and the plan is made already; leave them out"
        )
    if not plan.groups:
        reasons = list(dict.fromkeys(kept.reason for kept in plan.kept)) or ["the model has no convolution"]
        said = f"the plan converts nothing, so this is a plain copy: {'; '.join(reasons[:3])}"
        warnings.warn(said, LeanconvWarning, stacklevel=2)
    if init == "fit":
        refuse_meta(model, "load the dense weights for init='fit', or take init='fresh'")
    against = Reasons(model)  # on the original, because a copy has no gradient hooks
    for group in plan.groups:
        _check_group(model, group, against)
    lean = copied(model)
    source = model if teacher is None else unwrapped(teacher)
    in_turn = targets(source, plan.groups, data)
    if sequential and data is not None:
        data = again(data)
        in_turn = in_order(source, lean, plan.groups, data)
    new: dict[int, nn.Module] = {}
    for done, (group, target) in enumerate(in_turn, 1):
        convs = [_layer_at(lean, site) for site in group.sites]
        for index, (conv, module) in enumerate(zip(convs, build(group, convs, init, target), strict=True)):
            carried = carry(group.sites[index].name, conv, module)
            set_record(module, replace(get_record(module), member=Member(group, index), carried=carried))
            new[id(conv)] = module
        if (
            sequential
        ):  # the next group is fitted behind this one; otherwise all change at once, as each swap walks the network
            lean, new = swap(lean, new), {}
        if data is not None and progress is not None:
            progress(done, len(plan.groups))
    lean = swap(lean, new)
    names = [site.name for group in plan.groups for site in group.sites]
    warn_of_other_code(model, lean, names, plan.input_size)
    set_plan(lean, plan)
    if sequential and data is not None and has_norms(lean):
        reestimate_norms_(lean, data)
    return lean


def fitted(
    model: nn.Module,
    plan: Plan,
    init: Init,
    batches: Sequence[Any] | None,
    *,
    sequential: bool = False,
    **settings: Any,
) -> nn.Module:
    """`convert`, and with `batches` a fit to outputs on them, with the norms estimated again afterwards."""
    lean = convert(model, plan, init, data=batches, sequential=sequential, **settings)
    return lean if batches is None or sequential else reestimate_norms_(lean, batches)


def _check_init(init: Init, data: Iterable[Any] | None, outputs: bool) -> None:
    refuse_inference("convert")
    if init not in ("fresh", "fit"):
        raise SettingError(f"init={init!r} must be 'fresh' or 'fit'")
    if data is not None and init != "fit":
        raise SettingError(f"data is for a fit, and init={init!r}; take init='fit', or leave data out")
    if outputs and data is None:
        raise SettingError("sequential=True and teacher fit to outputs; give images, data=batches")


def _check_group(model: nn.Module, group: Group, against: Reasons) -> None:
    """Raise SettingError if a layer of the group cannot be replaced, or if they cannot share a weight."""
    convs = [(site.name, _layer_at(model, site)) for site in group.sites]
    for name, conv in convs:
        reason = against.of(name, conv)
        if reason is not None:
            raise SettingError(f"the plan converts {name!r}, but {reason}")
    difference = mixed(convs)
    if difference:
        raise SettingError(f"{group.method.label()} shares a weight: {difference}")


def build(group: Group, convs: Sequence[Layer], init: Init, target: Target | None = None) -> list[nn.Module]:
    """The modules of one group, with the device, dtype and flags of the layers that they replace.

    Args:
        convs: the dense layers of the group, in the order of its sites.
        target: what the modules are fitted to; None for the weights of `convs`.

    Raises:
        SettingError: a dense weight is not finite, with ``init="fit"``.
    """
    device, dtype = convs[0].weight.device, convs[0].weight.dtype
    with torch.device(device):
        modules = _as_asked(group.build(), group)
    if init == "fit":
        check_finite(convs, [site.name for site in group.sites])
        wide = torch.promote_types(dtype, torch.float32)  # torch.linalg takes no half precision
        for module in modules:
            module.to(dtype=wide)
        with torch.no_grad():
            target = target or Target(convs)
            fit_to = [_dense(conv, wide) for conv in target.convs]
            if target.stats is None:
                group.method.fit_(modules, fit_to)
            else:
                group.method.fit_(modules, fit_to, target.stats)
    for module in modules:
        module.to(dtype=dtype)
    trainable: dict[nn.Parameter, bool] = {}
    for module, conv in zip(modules, convs, strict=True):
        module.train(conv.training)
        if _is_channels_last(conv.weight):
            to_channels_last(module)
        for part in (module, *borrowed(module)):
            for name, parameter in part.named_parameters():
                is_bias = name.rpartition(".")[2] == "bias"  # a shared bias is registered as bank.bias
                source = conv.bias if is_bias and conv.bias is not None else conv.weight
                trainable[parameter] = trainable.get(parameter, False) or source.requires_grad
    for parameter, flag in trainable.items():
        parameter.requires_grad_(flag)
    return modules if group.kind == "conv" else [wrapped(module).train(module.training) for module in modules]


def _as_asked(modules: Any, group: Group) -> list[nn.Module]:
    """What a method built, where it is a module for each spec."""
    several = isinstance(modules, list | tuple)
    if several and len(modules) == len(group.sites) and all(isinstance(module, nn.Module) for module in modules):
        return list(modules)
    found = f"[{', '.join(type(module).__name__ for module in modules)}]" if several else type(modules).__name__
    made_by = "build" if group.kind == "conv" else "build_linear"
    raise SettingError(
        f"{made_by}() of {group.method.label()} returned {found} for {len(group.sites)} specs; it must return a list with one "
        "module for each, in their order"
    )


def _dense(conv: nn.Module, dtype: torch.dtype) -> nn.Conv2d:
    """The layer as a convolution to fit to, a copy where it is narrower than `dtype`."""
    conv = pointwise(conv) if isinstance(conv, nn.Linear) else conv
    assert isinstance(conv, nn.Conv2d)
    return conv if conv.weight.dtype == dtype else copy.deepcopy(conv).to(dtype)


def _is_channels_last(weight: Tensor) -> bool:
    return is_channels_last(weight) and not weight.is_contiguous()


def swap(model: nn.Module, new: dict[int, nn.Module]) -> nn.Module:
    """`model` with every module whose id is a key of `new` replaced, the root included.

    A model may refer to a layer twice: as a registered module, and in a plain attribute, list, tuple or dict.
    """
    if id(model) in new:
        return new[id(model)]
    for parent in list(model.modules()):
        for name, value in parent.__dict__.items():
            parent.__dict__[name] = _replaced(value, new)
    return model


def _replaced(value: Any, new: dict[int, nn.Module]) -> Any:
    """`value` with the modules in `new` replaced; lists and dicts are changed in place."""
    if isinstance(value, nn.Module):
        return new.get(id(value), value)
    if type(value) is list:
        value[:] = [_replaced(item, new) for item in value]
    elif isinstance(value, dict):
        for key, item in value.items():
            value[key] = _replaced(item, new)
    elif type(value) is tuple:
        return tuple(_replaced(item, new) for item in value)
    return value


def _layer_at(model: nn.Module, site: Site) -> Layer:
    name, wanted = site.name, "Conv2d" if site.kind == "conv" else "Linear"
    try:
        module = model.get_submodule(name)
    except AttributeError:
        raise SettingError(f"the plan converts {name!r}, which {type(model).__name__} does not have") from None
    if not isinstance(module, Layer) or isinstance(module, nn.Linear) != (site.kind == "linear"):
        raise SettingError(f"the plan converts {name!r}, a {type(module).__name__} in this model, not a {wanted}")
    found = spec_of(module)
    if isinstance(found, str):
        raise SettingError(f"the plan converts {name!r}, but {found}")
    if found != site.spec:
        differ = [f.name for f in fields(found) if getattr(found, f.name) != getattr(site.spec, f.name)]
        values = ", ".join(f"{n}={getattr(found, n)} here, {getattr(site.spec, n)} in the plan" for n in differ)
        raise SettingError(f"the plan was made for another model: {name!r} has {values}; plan this model")
    return module
