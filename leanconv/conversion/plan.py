"""What converts, together with what, and why the rest stays dense: pure data, decided before any weight is touched."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

import leanconv.ops  # noqa: F401  leanconv's own methods register
from leanconv.conversion.faults import mixed
from leanconv.conversion.globs import Names
from leanconv.conversion.sites import find_sites
from leanconv.core.base import image_size, input_size_of, unwrapped
from leanconv.core.errors import FileError, SettingError
from leanconv.core.meta import InputSize
from leanconv.core.method import Group, Method, OtherLayer, Site, Skipped
from leanconv.core.reading import levels, one_line
from leanconv.core.registry import method_in_file, source_of
from leanconv.core.spec import ConvSpec, Pair

LARGEST, DEEPEST = 1_000_000, 32  # of the numbers in a plan's file, and levels of it
Where = str | Sequence[str] | Callable[[Site], bool]
Rule = tuple[Where, Method | None]


@dataclass(frozen=True)
class Plan:
    """Groups of convolutions with their resolved methods, and the convolutions that stay dense, each with a reason."""

    groups: tuple[Group, ...]
    kept: tuple[Skipped, ...]
    input_size: InputSize | None = None

    def params(self) -> int:
        """Parameters of all planned convolutions after conversion, kept ones included, by the methods' formulas."""
        return sum(group.params() for group in self.groups) + sum(kept.site.params() for kept in self.kept)

    def params_dense(self) -> int:
        """Parameters of the same convolutions before."""
        return sum(site.params() for site in self.sites())

    def sites(self) -> list[Site | OtherLayer]:
        """Every convolution of the plan: those that convert, then those kept."""
        converted: list[Site | OtherLayer] = [site for group in self.groups for site in group.sites]
        return converted + [kept.site for kept in self.kept]

    def to_json(self) -> dict[str, Any]:
        """The plan as values that JSON knows; `from_json` reads them back to an equal plan."""
        return {
            "input_size": None if self.input_size is None else list(self.input_size),
            "groups": [
                {
                    "method": group.method.name,
                    "settings": group.method.settings(),
                    **source_of(type(group.method)),
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
            FileError: a part is missing, unknown or of the wrong kind, or a method is of a package that is not imported.
        """
        try:
            _bounded(value)
            groups = tuple(
                Group(
                    method_in_file(group).from_settings(group["settings"]),
                    tuple(_site_from_json(site) for site in group["sites"]),
                )
                for group in value["groups"]
            )
            kept = tuple(Skipped(_kept_from_json(kept["site"]), str(kept["reason"])) for kept in value["kept"])
            size = value["input_size"]
            names = [site.name for group in groups for site in group.sites] + [item.site.name for item in kept]
            twice = next((name for name, times in Counter(names).items() if times > 1), None)
            if twice is not None:
                raise ValueError(f"it names {twice!r} twice")
            return cls(groups, kept, None if size is None else tuple(int(n) for n in size))  # type: ignore[arg-type]
        except FileError:
            raise
        except KeyError as error:
            raise FileError(
                one_line(f"not a plan: {error} is missing or unknown; write plans with Plan.to_json")
            ) from error
        except Exception as error:  # of whatever the values are
            raise FileError(one_line(f"not a plan: {error}; write plans with Plan.to_json")) from error

    def __str__(self) -> str:
        sites = sum(len(group.sites) for group in self.groups)
        return (
            f"Plan: {sites} of {len(self.sites())} convolutions convert, in {len(self.groups)} groups; "
            f"their parameters go from {self.params_dense():,} to {self.params():,}"
        )


def _bounded(value: Any) -> None:
    """Raise ValueError where a plan holds a number that no convolution and no setting has, or nests too deeply.

    Numbers like that keep the formulas busy for ever, and methods build what settings ask for.
    """
    for level in levels(value, DEEPEST):
        for node in level:
            if isinstance(node, int | float) and not abs(node) <= LARGEST:
                raise ValueError(f"{node:.6g} is no number of a convolution; none is over {LARGEST:,}")


def _site_to_json(site: Site | OtherLayer) -> dict[str, Any]:
    if isinstance(site, OtherLayer):
        return {"name": site.name, "other": site.spec, "params": site.weights}
    return {
        "name": site.name,
        "stage": site.stage,
        "sizes": [list(size) for size in site.sizes],
        "conv": json.loads(json.dumps(site.spec.kwargs())),
    }


def _site_from_json(value: Any) -> Site:
    sizes: list[Pair] = [(int(h), int(w)) for h, w in value["sizes"]]
    stage = value["stage"]
    if stage is not None and type(stage) is not int:
        raise TypeError(f"stage={stage!r} is no whole number")
    return Site(str(value["name"]), ConvSpec(**value["conv"]), stage, tuple(sizes))


def _kept_from_json(value: Any) -> Site | OtherLayer:
    if "other" in value:
        return OtherLayer(str(value["name"]), str(value["other"]), int(value["params"]))
    return _site_from_json(value)


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

    Of a wrapper (`DataParallel`, an averaged or compiled model) the network inside is planned, by its own names.

    Args:
        method: one method, or rules ``[(where, method | None), ...]``: the first rule that matches a convolution
            decides, even if its method then rejects it; None keeps it dense.
        where: which convolutions (for a single method): an fnmatch glob over the dotted name (``*`` crosses dots,
            the root is ``""``), several globs, or a function of a `Site`. A layer that stands under several names is
            matched by any of them.
        exclude: convolutions that stay dense whatever the rules say.
        input_size: (channels, height, width); default: the one the model was made for, where it says so.
        stages: ``{glob: number}`` in place of the stages found by a forward pass.
        subclasses: subclasses of ``nn.Conv2d`` that may be replaced too; others stay, since they may compute
            something else.

    Raises:
        SettingError: a rule or a glob matches nothing, there is nothing to convert, the model does not run on
            `input_size`, or a method needs stages and no input size is known.
    """
    model = unwrapped(model)
    rules = _rules(method, where)
    if not isinstance(stages, Mapping | None) or not all(type(number) is int for number in (stages or {}).values()):
        raise SettingError(f"stages={stages!r} must be {{glob: whole number}}")
    kinds = tuple(subclasses) if isinstance(subclasses, Sequence) else (subclasses,)
    if not all(isinstance(kind, type) and issubclass(kind, nn.Conv2d) for kind in kinds):
        raise SettingError(f"subclasses={subclasses!r} must be subclasses of nn.Conv2d")
    size = input_size_of(model) if input_size is None else image_size(input_size)
    names = Names(model)
    sites, kept = find_sites(model, names, size, input_size is not None, stages or {}, kinds)
    every = [*sites, *(item.site for item in kept)]
    layers = [site.name for site in every]
    for glob in stages or {}:
        names.require("stages", glob, layers)
    for what, globs in (("exclude", exclude), *(("where", rule_where) for rule_where, _ in rules)):
        for glob in _globs(globs, what):
            names.require(what, glob, layers, others=what == "exclude")
    excluded = _matcher(exclude, names)
    matchers = [_matcher(rule_where, names) for rule_where, _ in rules]
    specified = [site for site in every if isinstance(site, Site)]
    for (rule_where, _), matches in zip(rules, matchers, strict=True):
        if not isinstance(rule_where, str) and not _globs(rule_where) and not any(map(matches, specified)):
            shown = ", ".join(map(repr, layers[:3]))
            raise SettingError(f"where={rule_where!r} matches none of the {len(layers)} convolutions ({shown}, ...)")
    chosen: list[list[Site]] = [[] for _ in rules]
    for site in sites:
        rule = next((index for index, matches in enumerate(matchers) if matches(site)), None)
        if excluded(site):
            kept.append(Skipped(site, "excluded"))
        elif rule is None:
            kept.append(Skipped(site, "no rule matches it"))
        elif rules[rule][1] is None:
            kept.append(Skipped(site, "a rule keeps it dense"))
        else:
            chosen[rule].append(site)
    groups: list[Group] = []
    for (_, rule_method), members in zip(rules, chosen, strict=True):
        if rule_method is not None and members:
            made, refused = rule_method.group(members)
            groups += made
            kept += refused
    for group in groups:
        difference = mixed([(site.name, model.get_submodule(site.name)) for site in group.sites])  # type: ignore[misc]
        if difference:
            raise SettingError(f"{group.method.label()} shares a weight: {difference}")
    order = {name: position for position, (name, _) in enumerate(model.named_modules())}
    kept.sort(key=lambda item: order[item.site.name])
    return Plan(tuple(groups), tuple(kept), size)


def _rules(method: Method | Sequence[Rule], where: Where) -> list[Rule]:
    if isinstance(method, Method):
        return [(where, method)]
    try:
        rules = [(rule_where, rule_method) for rule_where, rule_method in method]
    except (TypeError, ValueError):
        rules = []
    if not rules or not all(isinstance(rule_method, Method | None) for _, rule_method in rules):
        raise SettingError(
            f"method={method!r} must be a method such as TiedBlock(blocks=2), or rules [(where, method or None), ...]"
        )
    return rules


def _globs(where: Where, what: str = "where") -> Sequence[str]:
    """The globs of `where`; none of a function."""
    if callable(where):
        return ()
    globs = (where,) if isinstance(where, str) else where
    if not isinstance(globs, Sequence) or not all(isinstance(glob, str) for glob in globs):
        raise SettingError(f"{what}={where!r} must be a glob, several globs, or a function of a Site")
    return globs


def _matcher(where: Where, names: Names) -> Callable[[Site], bool]:
    if callable(where):
        return where
    return lambda site: any(names.matches(site.name, glob) for glob in _globs(where))
