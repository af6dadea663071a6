"""The candidates of a search: every method at its grid of settings for each layer, and the removal of residual blocks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import nn

from leanconv.conversion.faults import mixed
from leanconv.conversion.methods import label_of
from leanconv.conversion.plan import KEPT_BY_RULE, Include, Plan, Where, plan
from leanconv.core.errors import SettingError
from leanconv.core.meta import InputSize
from leanconv.core.method import Group, Method, Site, Skipped
from leanconv.ops import find_method, list_methods
from leanconv.search.controls import residual_blocks

REMOVED = "removed"


@dataclass(frozen=True)
class Candidate:
    """One choice: a layer stays dense, a group of layers becomes lean together, or a residual block is removed.

    Args:
        sites: the layers, in the order of execution.
        group: the group with its method; None for a layer that stays dense, and for a removed block.
        block: the name of the residual block that is removed with all its layers, so that its input passes; None for no block.
    """

    sites: tuple[Site, ...]
    group: Group | None = None
    block: str | None = None

    @property
    def changes(self) -> bool:
        """Whether the candidate is anything but a dense layer."""
        return self.group is not None or self.block is not None

    @property
    def label(self) -> str:
        """The method as text, "removed" or "dense"."""
        return label_of(None if self.group is None else self.group.method) if self.block is None else REMOVED

    @property
    def key(self) -> str:
        """The name of the candidate in files: its method and its layers."""
        return f"{self.label} @ {' '.join(site.name for site in self.sites)}"

    def params(self) -> int:
        """Parameters of the layers by formula; 0 for a removed block."""
        if self.block is not None:
            return 0
        return self.sites[0].params() if self.group is None else self.group.params()

    def macs(self) -> int:
        """MACs of one image in the layers by formula; 0 for a removed block."""
        if self.block is not None:
            return 0
        return self.sites[0].macs() if self.group is None else sum(self.group.macs())


@dataclass(frozen=True)
class Space:
    """All choices for a network.

    Args:
        sites: the layers that may become lean, in the order of execution.
        lean: the lean candidates, in the order of their first layers.
        kept: the layers that stay dense in any case, with the reasons.
        input_size: (channels, height, width) of one image.
    """

    sites: tuple[Site, ...]
    lean: tuple[Candidate, ...]
    kept: tuple[Skipped, ...]
    input_size: InputSize

    @property
    def dense(self) -> tuple[Candidate, ...]:
        """For each layer, the candidate that leaves it dense."""
        return tuple(Candidate((site,)) for site in self.sites)

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """All candidates: first the dense ones."""
        return (*self.dense, *self.lean)

    def only(self, keys: Iterable[str]) -> Space:
        """The space with only the lean candidates of these keys."""
        known = set(keys)
        return replace(self, lean=tuple(candidate for candidate in self.lean if candidate.key in known))

    def plan(self, chosen: Sequence[Candidate], reasons: Mapping[str, str] | None = None) -> Plan:
        """The plan of a choice, for the network without the blocks that it removes.

        Args:
            chosen: candidates that contain each layer once.
            reasons: why a layer stays dense, by its name.
        """
        named = [site.name for candidate in chosen for site in candidate.sites]
        assert sorted(named) == sorted(site.name for site in self.sites)
        dense = [candidate.sites[0] for candidate in chosen if not candidate.changes]
        stay = [Skipped(site, (reasons or {}).get(site.name, "the search keeps it dense")) for site in dense]
        groups = tuple(candidate.group for candidate in chosen if candidate.group is not None)
        gone = tuple(f"{block}." for block in self.removed(chosen))
        kept = tuple(item for item in self.kept if not item.site.name.startswith(gone))
        return Plan(groups, (*kept, *stay), self.input_size)

    def removed(self, chosen: Sequence[Candidate]) -> tuple[str, ...]:
        """The blocks that a choice removes."""
        return tuple(candidate.block for candidate in chosen if candidate.block is not None)


def candidates_of(
    model: nn.Module,
    input_size: InputSize,
    *,
    methods: Sequence[str | Method] = (),
    align: int = 8,
    where: Where = "*",
    exclude: Where = (),
    include: Include | Sequence[Include] = (),
    blocks: bool = False,
    required: bool = True,
) -> Space:
    """The layers of `model` that may become lean, and the candidates for them.

    Layers of one weight shape are offered to each method together, with each setting of the method's grid. A method that
    shares weights makes groups of them, and such a group is one candidate. A candidate that saves neither parameters nor MACs
    is left out. A residual block is a candidate for removal if the network runs without it (`leanconv.search.residual_blocks`),
    all its layers may become lean, and it shares no weight with the rest of the network.

    Args:
        input_size: (channels, height, width) of one image.
        methods: names of methods, or methods with settings; () takes every method that leanconv knows.
        align: the channels of a whole vector, see `leanconv.Method.grid`.
        where, exclude, include: as in `leanconv.plan`.
        blocks: whether residual blocks may be removed.
        required: raise if there is no candidate.

    Raises:
        SettingError: as `leanconv.plan`, or there is no candidate.

    >>> import leanconv as lc
    >>> space = candidates_of(lc.create_model("resnet8"), (3, 32, 32), methods=["tied_block"])
    >>> [candidate.label for candidate in space.lean if candidate.sites[0].name == "layer3.0.conv2"]
    ['tied_block(blocks=2)', 'tied_block(blocks=4)', 'tied_block(blocks=8)']
    """
    known = plan(model, [(where, None)], exclude=exclude, input_size=input_size, include=include)
    kept = tuple(item for item in known.kept if item.reason != KEPT_BY_RULE)
    offered = [item.site for item in known.kept if item.reason == KEPT_BY_RULE and isinstance(item.site, Site)]
    order = _order(model, input_size, include)
    sites = tuple(sorted(offered, key=lambda site: order[site.name]))
    asked = tuple(methods) or tuple(list_methods())
    found = [candidate for alike in _alike(sites) for candidate in _of(model, alike, asked, align)]
    found += _removals(model, sites, order, known.input_size or input_size) if blocks else []
    if required and not found:
        raise SettingError(
            f"none of the {len(sites)} layers has a candidate; name other methods, or a smaller align than {align}"
        )
    return Space(
        sites, tuple(sorted(found, key=lambda one: order[one.sites[0].name])), kept, known.input_size or input_size
    )


def _order(model: nn.Module, input_size: InputSize, include: Include | Sequence[Include]) -> dict[str, int]:
    """The position of each layer in the order of execution; a plan sorts layers by their names' order in the network."""
    ordered: list[str] = []

    def note(site: Site) -> bool:
        ordered.append(site.name)  # `plan` offers layers to a rule in the order of execution
        return True

    plan(model, [(note, None)], input_size=input_size, include=include)
    return {name: position for position, name in enumerate(dict.fromkeys(ordered))}


def _alike(sites: Sequence[Site]) -> list[list[Site]]:
    """The layers by kind and weight shape."""
    found: dict[tuple[object, ...], list[Site]] = {}
    for site in sites:
        found.setdefault((site.kind, site.spec.weight_shape, site.spec.groups, site.spec.bias), []).append(site)
    return list(found.values())


def _of(model: nn.Module, sites: Sequence[Site], asked: Sequence[str | Method], align: int) -> list[Candidate]:
    """The candidates for layers of one shape."""
    found: dict[tuple[object, ...], Candidate] = {}
    for entry in asked:
        grid = [entry] if isinstance(entry, Method) else find_method(entry).grid([site.spec for site in sites], align)
        for method in grid:
            for group in method.group(sites)[0]:
                candidate = Candidate(group.sites, group)
                dense = [Candidate((site,)) for site in group.sites]
                fewer = candidate.params() < sum(one.params() for one in dense)
                saves = fewer or candidate.macs() < sum(one.macs() for one in dense)
                if saves and mixed([(site.name, model.get_submodule(site.name)) for site in group.sites]) is None:  # type: ignore[misc]
                    # two scopes of one method may make the same group
                    same = (method.name, candidate.params(), candidate.macs(), *(site.name for site in group.sites))
                    found.setdefault(same, candidate)
    return list(found.values())


def _removals(model: nn.Module, sites: Sequence[Site], every: Iterable[str], input_size: InputSize) -> list[Candidate]:
    """The residual blocks that may be removed.

    Args:
        sites: the layers that may become lean.
        every: the names of these layers, and of those that `where` and `exclude` keep.
    """
    asked, found = {site.name for site in sites}, []
    for block in residual_blocks(model, input_size):
        inside = f"{block.name}."
        own = tuple(site for site in sites if site.name.startswith(inside))
        if own and all(name in asked for name in every if name.startswith(inside)) and not _shares(model, inside):
            found.append(Candidate(own, block=block.name))
    return found


def _shares(model: nn.Module, inside: str) -> bool:
    """Whether a parameter of the modules whose names start with `inside` belongs to another module too."""
    named = [*model.named_parameters(remove_duplicate=False)]
    own = {id(parameter) for name, parameter in named if name.startswith(inside)}
    return any(id(parameter) in own for name, parameter in named if not name.startswith(inside))
