"""What converts, together with what, and why the rest stays dense: pure data, decided before any weight is touched."""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from leanconv.core.base import input_size_of
from leanconv.core.errors import FileError, SettingError
from leanconv.core.meta import InputSize, example_input, on_meta, quiet_failure
from leanconv.core.method import Group, Kept, Method, Site
from leanconv.core.operator import ConvOp
from leanconv.core.spec import ConvSpec, Pair
from leanconv.ops import METHODS_BY_NAME

Where = str | Sequence[str] | Callable[[Site], bool]
Rule = tuple[Where, Method | None]


@dataclass(frozen=True)
class Plan:
    """Groups of convolutions with their resolved methods, and the convolutions that stay dense, each with a reason."""

    groups: tuple[Group, ...]
    kept: tuple[Kept, ...]
    input_size: InputSize | None = None

    def params(self) -> int:
        """Parameters of all planned convolutions after conversion, kept ones included, by the methods' formulas."""
        return sum(group.params() for group in self.groups) + sum(kept.site.params() for kept in self.kept)

    def params_dense(self) -> int:
        """Parameters of the same convolutions before."""
        return sum(site.params() for site in self.sites())

    def sites(self) -> list[Site]:
        """Every convolution of the plan: those that convert, then those kept."""
        return [site for group in self.groups for site in group.sites] + [kept.site for kept in self.kept]

    def to_json(self) -> dict[str, Any]:
        """The plan as values that JSON knows; `from_json` reads them back to an equal plan."""
        return {
            "input_size": None if self.input_size is None else list(self.input_size),
            "groups": [
                {
                    "method": group.method.name,
                    "settings": group.method.settings(),
                    "sites": [_site_to_json(site) for site in group.sites],
                }
                for group in self.groups
            ],
            "kept": [{"site": _site_to_json(kept.site), "reason": kept.reason} for kept in self.kept],
        }

    @classmethod
    def from_json(cls, value: Any) -> Plan:
        """The plan that `to_json` wrote.

        Raises:
            FileError: a part is missing, unknown or of the wrong kind.
        """
        try:
            groups = tuple(
                Group(
                    METHODS_BY_NAME[group["method"]].from_settings(group["settings"]),
                    tuple(_site_from_json(site) for site in group["sites"]),
                )
                for group in value["groups"]
            )
            kept = tuple(Kept(_site_from_json(kept["site"]), str(kept["reason"])) for kept in value["kept"])
            size = value["input_size"]
            return cls(groups, kept, None if size is None else tuple(int(n) for n in size))  # type: ignore[arg-type]
        except KeyError as error:
            raise FileError(f"not a plan: {error} is missing or unknown; write plans with Plan.to_json") from error
        except (TypeError, ValueError, AttributeError) as error:
            raise FileError(f"not a plan: {error}; write plans with Plan.to_json") from error

    def __str__(self) -> str:
        sites = sum(len(group.sites) for group in self.groups)
        return (
            f"Plan: {sites} of {len(self.sites())} convolutions convert, in {len(self.groups)} groups; "
            f"their parameters go from {self.params_dense():,} to {self.params():,}"
        )


def _site_to_json(site: Site) -> dict[str, Any]:
    return {
        "name": site.name,
        "stage": site.stage,
        "sizes": [list(size) for size in site.sizes],
        "conv": json.loads(json.dumps(site.spec.kwargs())),
    }


def _site_from_json(value: Any) -> Site:
    sizes: list[Pair] = [(int(h), int(w)) for h, w in value["sizes"]]
    return Site(str(value["name"]), ConvSpec(**value["conv"]), value["stage"], tuple(sizes))


def plan(
    model: nn.Module,
    method: Method | Sequence[Rule],
    where: Where = "*",
    *,
    exclude: Where = (),
    input_size: InputSize | None = None,
    stages: Mapping[str, int] | None = None,
    subclasses: Sequence[type[nn.Conv2d]] = (),
) -> Plan:
    """Decide which convolutions of `model` become lean. The model is not touched, and may be on the meta device.

    Args:
        method: one method, or rules ``[(where, method | None), ...]``: the first rule that matches a convolution
            decides, even if its method then rejects it; None keeps it dense.
        where: which convolutions (for a single method): an fnmatch glob over the dotted name (``*`` crosses dots,
            the root is ``""``), several globs, or a function of a `Site`.
        exclude: convolutions that stay dense whatever the rules say.
        input_size: (channels, height, width); default: the one the model was made for, where it says so.
        stages: ``{glob: number}`` in place of the stages found by a forward pass.
        subclasses: subclasses of ``nn.Conv2d`` that may be replaced too; others stay, since they may compute
            something else.

    Raises:
        SettingError: nothing matches a rule, or a method needs stages and the input size is unknown.
    """
    rules = [(where, method)] if isinstance(method, Method) else list(method)
    size = input_size or input_size_of(model)
    sites, kept = _find(model, size, stages or {}, tuple(subclasses))
    excluded = _matcher(exclude)
    matchers = [_matcher(rule_where) for rule_where, _ in rules]
    chosen: list[list[Site]] = [[] for _ in rules]
    matched = [False] * len(rules)
    for site in sites:
        hits = [index for index, matches in enumerate(matchers) if matches(site)]
        for index in hits:
            matched[index] = True
        if excluded(site):
            kept.append(Kept(site, "excluded"))
        elif not hits:
            kept.append(Kept(site, "no rule matches it"))
        elif rules[hits[0]][1] is None:
            kept.append(Kept(site, "a rule keeps it dense"))
        else:
            chosen[hits[0]].append(site)
    for (rule_where, _), hit in zip(rules, matched, strict=True):
        if not hit and sites:
            names = ", ".join(repr(site.name) for site in sites[:3])
            raise SettingError(f"where={rule_where!r} matches none of the {len(sites)} convolutions ({names}, ...)")
    groups: list[Group] = []
    for (_, rule_method), members in zip(rules, chosen, strict=True):
        if rule_method is not None and members:
            made, refused = rule_method.group(members)
            groups += made
            kept += refused
    order = {name: position for position, (name, _) in enumerate(model.named_modules())}
    kept.sort(key=lambda item: order[item.site.name])
    return Plan(tuple(groups), tuple(kept), size)


def _matcher(where: Where) -> Callable[[Site], bool]:
    if callable(where):
        return where
    globs = (where,) if isinstance(where, str) else tuple(where)
    for glob in globs:
        if not isinstance(glob, str):
            raise SettingError(f"where={where!r} must be a glob, several globs, or a function of a Site")
    return lambda site: any(fnmatch.fnmatchcase(site.name, glob) for glob in globs)


def _find(
    model: nn.Module, input_size: InputSize | None, stages: Mapping[str, int], subclasses: tuple[type, ...]
) -> tuple[list[Site], list[Kept]]:
    """The convolutions that may be replaced, and those that may not, in the model's order; never parts of an operator."""
    ours = {id(part) for module in model.modules() if isinstance(module, ConvOp) for part in module.modules()}
    convs = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d) and id(module) not in ours
    ]
    sizes = _output_sizes(model, [name for name, _ in convs], input_size) if input_size and convs else {}
    areas = sorted({h * w for calls in sizes.values() for h, w in calls}, reverse=True)
    sites: list[Site] = []
    kept: list[Kept] = []
    for name, module in convs:
        calls = sizes.get(name, ())
        stage = areas.index(calls[0][0] * calls[0][1]) if calls else None
        for glob, number in stages.items():
            if fnmatch.fnmatchcase(name, glob):
                stage = number
        site = Site(name, ConvSpec.of(module), stage, tuple(calls))
        if type(module) is not nn.Conv2d and type(module) not in subclasses:
            kept.append(Kept(site, f"{type(module).__name__} is a subclass of Conv2d; opt in with subclasses="))
        elif module._forward_hooks or module._forward_pre_hooks:
            kept.append(Kept(site, "it has forward hooks, which a new module would lose; remove them first"))
        elif sizes and stage is None:
            kept.append(Kept(site, "a forward pass in eval mode never calls it"))
        else:
            sites.append(site)
    return sites, kept


def _output_sizes(model: nn.Module, names: list[str], input_size: InputSize) -> dict[str, list[Pair]]:
    """The output's (height, width) of each named convolution, one for each call of a forward pass without weights."""
    twin = on_meta(model)
    sizes: dict[str, list[Pair]] = {}
    for name in names:

        def record(module: nn.Module, args: Any, output: torch.Tensor, name: str = name) -> None:
            sizes.setdefault(name, []).append((output.shape[-2], output.shape[-1]))

        twin.get_submodule(name).register_forward_hook(record)
    with quiet_failure(model, input_size), torch.no_grad():
        twin(example_input(twin, input_size))
    return sizes
