"""Plans: the groups of layers to convert, and the layers that stay dense with a reason; a plan changes no weight."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from torch import nn

import leanconv.ops  # noqa: F401  leanconv's own methods register
from leanconv.conversion.channels import natural
from leanconv.conversion.faults import mixed
from leanconv.conversion.globs import Names
from leanconv.conversion.sites import Found, find_sites
from leanconv.core.errors import FileError, SettingError
from leanconv.core.meta import InputSize
from leanconv.core.method import Group, Kind, Method, OtherLayer, Site, Skipped
from leanconv.core.notes import image_size, input_size_of
from leanconv.core.reading import levels, one_line
from leanconv.core.registry import method_in_file, source_of
from leanconv.core.settings import check_int, several
from leanconv.core.spec import ConvSpec, Pair
from leanconv.core.wrappers import unwrapped

LARGEST, DEEPEST = 1_000_000, 32  # the largest number and the most levels in the file of a plan
Place = str | Callable[[Site], bool]
Where = Place | Sequence[Place]
Rule = tuple[Where, Method | None]
Places = tuple[tuple[Place, ...], Method | None]  # a rule, its `where` as a tuple
Include = Literal["linear"]
KEPT_BY_RULE = "a rule keeps it dense"
CLASSIFIER = "it is the classifier; give its full name in where to convert it too"


@dataclass(frozen=True)
class Plan:
    """Groups of layers with their resolved methods, and the layers that stay dense, each with a reason.

    The layers are the convolutions, and the linear layers if they were included.

    Args:
        groups: the groups of layers that are converted.
        kept: the layers that stay dense.
        input_size: (channels, height, width) of the forward pass that found the sizes; None without a forward pass.
    """

    groups: tuple[Group, ...]
    kept: tuple[Skipped, ...]
    input_size: InputSize | None = None

    def params(self) -> int:
        """Parameters of all layers after the conversion, by the methods' formulas; layers that stay dense are included."""
        return sum(group.params() for group in self.groups) + sum(kept.site.params() for kept in self.kept)

    def params_dense(self) -> int:
        """Parameters of the same layers before the conversion."""
        return sum(site.params() for site in self.sites())

    def sites(self) -> list[Site | OtherLayer]:
        """All layers of the plan: first the layers that are converted, then the layers that stay dense."""
        converted: list[Site | OtherLayer] = [site for group in self.groups for site in group.sites]
        return converted + [kept.site for kept in self.kept]

    def to_json(self) -> dict[str, Any]:
        """The plan as JSON values; `from_json` returns an equal plan."""
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
            FileError: a part is missing, unknown or of a wrong type, or the package of a method is not imported.
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
        except Exception as error:  # the values are untrusted and may raise anything
            raise FileError(one_line(f"not a plan: {error}; write plans with Plan.to_json")) from error

    def __str__(self) -> str:
        sites, every = sum(len(group.sites) for group in self.groups), self.sites()
        return (
            f"Plan: {sites} of {len(every)} {_called(every)} convert, in {len(self.groups)} groups; "
            f"their parameters go from {self.params_dense():,} to {self.params():,}"
        )


def _called(sites: Sequence[Site | OtherLayer]) -> str:
    """The word for `sites` in a message: "layers" if there is a linear layer, otherwise "convolutions"."""
    return "layers" if any(site.kind == "linear" for site in sites) else "convolutions"


def _bounded(value: Any) -> None:
    """Raise ValueError if a plan has a number that is too large for a convolution or a setting, or nests too deeply.

    With such numbers, the formulas run forever, and methods build modules that are too large.
    """
    for level in levels(value, DEEPEST):
        for node in level:
            if isinstance(node, int | float) and not abs(node) <= LARGEST:
                raise ValueError(f"{node:.6g} is no number of a convolution; none is over {LARGEST:,}")


def _site_to_json(site: Site | OtherLayer) -> dict[str, Any]:
    if isinstance(site, OtherLayer):
        return {"name": site.name, "other": site.spec, "params": site.weights}
    return (
        {
            "name": site.name,
            "stage": site.stage,
            "sizes": [list(size) for size in site.sizes],
            "conv": json.loads(json.dumps(site.spec.kwargs())),
        }
        | ({} if site.kind == "conv" else {"kind": site.kind})
        | ({"maps": list(site.maps)} if site.maps else {})
    )


def _site_from_json(value: Any) -> Site:
    sizes: list[Pair] = [(int(h), int(w)) for h, w in value["sizes"]]
    stage = value["stage"]
    if stage is not None and type(stage) is not int:
        raise TypeError(f"stage={stage!r} is no whole number")
    kind = value.get("kind", "conv")  # files without linear layers do not have this key
    if kind not in get_args(Kind):
        raise ValueError(f"kind={kind!r} is no kind of layer")
    maps = tuple(natural(count) for count in value.get("maps", ()))
    if maps and sum(maps) != len(sizes):
        raise ValueError(f"its calls have {sum(maps)} maps, and it has {len(sizes)} sizes")
    return Site(str(value["name"]), ConvSpec(**value["conv"]), stage, tuple(sizes), kind, maps)


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
    subclasses: Sequence[type[nn.Conv2d | nn.Linear]] = (),
    include: Include | Sequence[Include] = (),
    align: int | None = None,
) -> Plan:
    """The plan of a conversion: which layers of `model` become lean. The model is unchanged, and may be on the meta device.

    The layers are the 2-d convolutions, and with ``include="linear"`` also the linear layers, each as the 1x1 convolution that
    equals it at each position. The classifier is the linear layer that is called last. It stays dense, unless a rule has its
    full name, such as ``where="head.fc"``. Convolutions and linear layers never share a weight.

    For a wrapper (`DataParallel`, an averaged or compiled model), the plan is for the network inside, with its own names.

    Args:
        method: one method, or rules ``[(where, method | None), ...]``. The first rule that matches a layer decides, even if
            its method rejects the layer. None keeps a layer dense.
        where: the layers to convert, for a single method: an fnmatch glob over the dotted name (``*`` matches dots too, and
            the root is ``""``), a function of a `Site`, whose ``kind`` is ``"conv"`` or ``"linear"``, or several of these. A
            glob may match any name of a layer.
        exclude: layers that stay dense in any case.
        input_size: (channels, height, width); default: the input size of the model, if the model states it.
        stages: ``{glob: number}`` in place of the stages that a forward pass finds.
        subclasses: subclasses of ``nn.Conv2d`` and ``nn.Linear`` that may be replaced too. Other subclasses stay dense,
            because they may compute something else.
        include: ``"linear"`` includes the linear layers; by default, only convolutions are planned.
        align: choose blocks, ratios and ranks that leave multiples of this number of channels, or keep the layer dense. 16
            float32 numbers are one AVX-512 vector; AMX in bfloat16 computes on 32 channels at a time. None takes the
            settings of the method as they are.

    Raises:
        SettingError: a rule or a glob matches nothing, there is no layer to convert, the model does not run on `input_size`,
            or a method needs stages and the input size is unknown.

    >>> import leanconv as lc
    >>> mlp = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4))
    >>> made = lc.plan(mlp, lc.TiedBlock(blocks=2), include="linear")
    >>> print(made)
    Plan: 1 of 2 layers convert, in 1 groups; their parameters go from 420 to 212
    >>> made.kept[0].site.name, made.kept[0].reason
    ('2', 'it is the classifier; give its full name in where to convert it too')
    """
    model = unwrapped(model)
    rules, exclude = _rules(method, where), several(exclude)
    if align is not None:
        check_int("align", align)
    if not isinstance(stages, Mapping | None) or not all(
        isinstance(glob, str) and type(number) is int for glob, number in (stages or {}).items()
    ):
        raise SettingError(f"stages={stages!r} must be {{glob: whole number}}")
    kinds = tuple(subclasses) if isinstance(subclasses, Sequence) else (subclasses,)
    if not all(isinstance(kind, type) and issubclass(kind, nn.Conv2d | nn.Linear) for kind in kinds):
        raise SettingError(f"subclasses={subclasses!r} must be subclasses of nn.Conv2d or nn.Linear")
    size = input_size_of(model) if input_size is None else image_size(input_size)
    names = Names(model)
    found = find_sites(model, names, size, input_size is not None, stages or {}, kinds, _kinds(include))
    kept = found.kept
    every = [*found.sites, *(item.site for item in kept)]
    layers, called = [site.name for site in every], _called(every)
    for glob in stages or {}:
        names.require("stages", glob, layers, kinds=called)
    for what, globs in (("exclude", exclude), *(("where", rule_where) for rule_where, _ in rules)):
        for glob in _globs(globs, what):
            names.require(what, glob, layers, others=what == "exclude", kinds=called)
    excluded = _matcher(exclude, names)
    matchers = [_matcher(rule_where, names) for rule_where, _ in rules]
    specified = [site for site in every if isinstance(site, Site)]
    for rule_where, _ in rules:
        empty = [one for one in rule_where if callable(one) and not any(map(one, specified))]
        if empty or not rule_where:
            shown = ", ".join(map(repr, layers[:3]))
            raise SettingError(
                f"where={empty[0] if empty else ()!r} matches none of the {len(layers)} {called} ({shown}, ...)"
            )
    chosen, unchosen = _chosen(found, rules, matchers, excluded, names)
    groups, refused = _grouped(rules, chosen, align)
    kept += unchosen + refused
    for group in groups:
        difference = mixed([(site.name, model.get_submodule(site.name)) for site in group.sites])  # type: ignore[misc]
        if difference:
            raise SettingError(f"{group.method.label()} shares a weight: {difference}")
    order = {name: position for position, (name, _) in enumerate(model.named_modules())}
    kept.sort(key=lambda item: order[item.site.name])
    return Plan(tuple(groups), tuple(kept), size)


def _chosen(
    found: Found,
    rules: Sequence[Places],
    matchers: Sequence[Callable[[Site], bool]],
    excluded: Callable[[Site], bool],
    names: Names,
) -> tuple[list[list[Site]], list[Skipped]]:
    """The sites that each rule converts, and the sites that no rule converts."""
    chosen: list[list[Site]] = [[] for _ in rules]
    kept: list[Skipped] = []
    for site in found.sites:
        rule = next((index for index, matches in enumerate(matchers) if matches(site)), None)
        unnamed = False
        if site.name == found.classifier:  # only a rule with its full name converts it
            named = [names.named(site.name, _globs(where)) for where, _ in rules]
            rule, unnamed = (named.index(True), False) if any(named) else (rule, True)
        if excluded(site):
            kept.append(Skipped(site, "excluded"))
        elif rule is None:
            kept.append(Skipped(site, "no rule matches it"))
        elif unnamed:
            kept.append(Skipped(site, CLASSIFIER))
        elif rules[rule][1] is None:
            kept.append(Skipped(site, KEPT_BY_RULE))
        else:
            chosen[rule].append(site)
    return chosen, kept


def _grouped(
    rules: Sequence[Places], chosen: Sequence[Sequence[Site]], align: int | None
) -> tuple[list[Group], list[Skipped]]:
    """The groups that each rule's method makes of the rule's sites, and the sites that the method refuses.

    Convolutions and linear layers are grouped separately.
    """
    groups: list[Group] = []
    kept: list[Skipped] = []
    for (_, method), sites in zip(rules, chosen, strict=True):
        for kind in get_args(Kind):
            alike = [site for site in sites if site.kind == kind]
            if method is None or not alike:
                continue
            by_method, unaligned = _aligned(method, alike, align)
            kept += unaligned
            for own, members in by_method.items():
                made, refused = own.group(members)
                groups += made
                kept += refused
    return groups, kept


def _aligned(
    method: Method, sites: Sequence[Site], align: int | None
) -> tuple[dict[Method, list[Site]], list[Skipped]]:
    """The sites by the method that is aligned for them, and the sites without one; all of `method` without `align`."""
    if align is None:
        return {method: list(sites)}, []
    by_method: dict[Method, list[Site]] = {}
    kept: list[Skipped] = []
    for site in sites:
        own = method.aligned(site.spec, align)
        if isinstance(own, Method):
            by_method.setdefault(own, []).append(site)
        else:
            refuse = method.reject if site.kind == "conv" else method.reject_linear
            kept.append(Skipped(site, refuse(site.spec) or own))
    return by_method, kept


def _rules(method: Method | Sequence[Rule], where: Where) -> list[Places]:
    if isinstance(method, Method):
        return [(several(where), method)]
    if isinstance(method, str):
        raise SettingError(
            f"method={method!r} must be a method such as TiedBlock(blocks=2) and no text, which the command line alone takes; "
            'by its name it is leanconv.find_method("tied_block")(blocks=2)'
        )
    try:
        rules = [(several(rule_where), rule_method) for rule_where, rule_method in method]
    except (TypeError, ValueError):
        rules = []
    if not rules or not all(isinstance(rule_method, Method | None) for _, rule_method in rules):
        raise SettingError(
            f"method={method!r} must be a method such as TiedBlock(blocks=2), or rules [(where, method or None), ...]"
        )
    return rules


def _kinds(include: Include | Sequence[Include]) -> tuple[Kind, ...]:
    """The kinds of layers to plan."""
    given = (include,) if isinstance(include, str) else include
    if not isinstance(given, Sequence) or not all(kind in get_args(Include) for kind in given):
        raise SettingError(f'include={include!r} must be "linear", which adds the linear layers, or be left out')
    return ("conv", *dict.fromkeys(given))


def _globs(where: Sequence[Place], what: str = "where") -> Sequence[str]:
    """The globs of `where`, without its functions."""
    if not all(isinstance(one, str) or (callable(one) and not isinstance(one, nn.Module)) for one in where):
        shown = where[0] if len(where) == 1 else where
        raise SettingError(
            f"{what}={shown!r} must be a glob of the names of layers, such as 'layer1.*', several globs, or a function of a Site"
        )
    return [one for one in where if isinstance(one, str)]


def globs_only(where: Where, what: str = "where") -> tuple[str, ...]:
    """`where` as a tuple of globs, for a run whose files name its layers; one glob may stand alone.

    Raises:
        SettingError: it is something else.

    >>> globs_only("layer1.*")
    ('layer1.*',)
    """
    given = several(where)
    if not all(isinstance(one, str) for one in given):
        raise SettingError(
            f"{what}={where!r} must be a glob or several globs; for a function, convert the network first"
        )
    return given


def _matcher(where: Sequence[Place], names: Names) -> Callable[[Site], bool]:
    return lambda site: any(one(site) if callable(one) else names.matches(site.name, one) for one in where)
