"""The operators: one file each, with its module, its method, its count formula and its fit."""

from leanconv.core.method import Method
from leanconv.ops.attention import TiedGlobalContext, TiedSE
from leanconv.ops.depth_shared import DepthShared, DepthSharedConv2d
from leanconv.ops.filter_summary import FilterSummary, FilterSummaryConv2d
from leanconv.ops.ghost import Ghost, GhostConv2d
from leanconv.ops.grouped import Grouped, GroupedConv2d
from leanconv.ops.het import Het, HetConv2d
from leanconv.ops.lego import Lego, LegoConv2d
from leanconv.ops.linear import PointwiseLinear
from leanconv.ops.octave import OctaveConv2d
from leanconv.ops.shared_basis import SharedBasis, SharedBasisConv2d
from leanconv.ops.soft_shared import SoftShared, SoftSharedConv2d
from leanconv.ops.split import Split, SplitConv2d
from leanconv.ops.tied_block import TiedBlock, TiedBlockConv2d
from leanconv.ops.tied_linear import TiedBlockLinear

METHODS: tuple[type[Method], ...] = (
    TiedBlock,
    SharedBasis,
    DepthShared,
    Split,
    Grouped,
    Ghost,
    Het,
    Lego,
    SoftShared,
    FilterSummary,
)
METHODS_BY_NAME: dict[str, type[Method]] = {method.name: method for method in METHODS}

__all__ = [
    "METHODS",
    "METHODS_BY_NAME",
    "DepthShared",
    "DepthSharedConv2d",
    "FilterSummary",
    "FilterSummaryConv2d",
    "Ghost",
    "GhostConv2d",
    "Grouped",
    "GroupedConv2d",
    "Het",
    "HetConv2d",
    "Lego",
    "LegoConv2d",
    "OctaveConv2d",
    "PointwiseLinear",
    "SharedBasis",
    "SharedBasisConv2d",
    "SoftShared",
    "SoftSharedConv2d",
    "Split",
    "SplitConv2d",
    "TiedBlock",
    "TiedBlockConv2d",
    "TiedBlockLinear",
    "TiedGlobalContext",
    "TiedSE",
]
