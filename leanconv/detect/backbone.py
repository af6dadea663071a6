"""Any network as a detector's backbone: its maps at strides 4 to 32, with a feature pyramid on top."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.models.feature_extraction import create_feature_extractor
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock, FeaturePyramidNetwork

from leanconv.core.errors import SettingError, first_line
from leanconv.core.meta import dry_run
from leanconv.core.operator import ConvOp
from leanconv.core.sharing import check_owners

STRIDES = (4, 8, 16, 32)
RESNET = ("layer1", "layer2", "layer3", "layer4")  # torchvision's networks do not say where their maps are


class PyramidBackbone(nn.Module):
    """A network's maps, through a feature pyramid.

    Args:
        network: dense or lean, leanconv's, timm's or torchvision's.
        layers: names of the modules whose outputs are taken, from fine to coarse; None asks the network (``feature_info``)
            for those of strides 4 to 32.
        out_channels: of every level.
        extra: more levels on top, see torchvision.
        first: how many of the finest levels are left out (RetinaNet: 1).
        frozen_norms: batch norms of the network keep their statistics, weight and bias.
        frozen: names of the network's modules that do not train, such as ("conv1", "bn1", "layer1").

    Shape:
        x: (N, 3, H, W), any H and W -> {"0": (N, out_channels, ceil(H / 4), ceil(W / 4)), ...}.

    Raises:
        SettingError: no such layers, no norm to freeze, or a network whose code cannot be traced.
        TieError: the layers taken use weights of layers that are left out.
    """

    def __init__(
        self,
        network: nn.Module,
        layers: Sequence[str] | None = None,
        *,
        out_channels: int = 256,
        extra: ExtraFPNBlock | None = None,
        first: int = 0,
        frozen_norms: bool = False,
        frozen: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.source = (network,)  # in a tuple: its layers are the body's, and its head is none of the detector's
        names = list(layers or feature_layers(network))[first:]
        channels = _channels(network, names)
        try:
            # lean layers stay whole: traced through, they would lose their penalties and the choice of their form
            self.body = create_feature_extractor(
                network,
                {name: str(i) for i, name in enumerate(names)},
                tracer_kwargs={"leaf_modules": [ConvOp, _BatchNorm]},  # some norms of timm's would be taken apart
                suppress_diff_warning=True,  # dropped paths and the like: two graphs are what is meant
            )
        except Exception as error:  # what tracing raises is unbounded
            raise SettingError(
                f"{type(network).__name__} cannot be traced as a backbone ({first_line(error)})"
            ) from error
        check_owners(self.body, [(name, m) for name, m in self.body.named_modules() if isinstance(m, ConvOp)])
        self.fpn = FeaturePyramidNetwork(channels, out_channels, extra)
        self.out_channels = out_channels
        self.frozen_norms = frozen_norms
        prefixes = (frozen,) if isinstance(frozen, str) else tuple(frozen)
        for prefix in prefixes:
            if not any(name == prefix or name.startswith(f"{prefix}.") for name, _ in self.body.named_parameters()):
                raise SettingError(f"frozen={prefix!r} names no module with parameters; conv1, bn1 or layer1 may")
        for name, parameter in self.body.named_parameters():
            if any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes):
                parameter.requires_grad_(False)
        if frozen_norms:
            if not self._norms():
                raise SettingError(f"frozen_norms=True, and {type(network).__name__} has no batch norm; leave it out")
            for norm in self._norms():
                norm.requires_grad_(False)
        self.train(self.training)

    @property
    def network(self) -> nn.Module:
        """The network whose layers these are, with what belongs to it alone: its head, and its plan."""
        return self.source[0]

    def _norms(self) -> list[nn.Module]:
        return [module for module in self.body.modules() if isinstance(module, _BatchNorm)]

    def train(self, mode: bool = True) -> PyramidBackbone:
        """Frozen norms stay in eval mode."""
        super().train(mode)
        if self.frozen_norms:
            for norm in self._norms():
                norm.eval()
        return self

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        levels: dict[str, Tensor] = self.fpn(self.body(x))
        # anchors and boxes take the maps' type, and bfloat16 cannot tell pixels of a large photo apart
        return {name: level.float() for name, level in levels.items()}


def feature_layers(network: nn.Module) -> list[str]:
    """The modules of `network` whose outputs have strides 4, 8, 16 and 32.

    Raises:
        SettingError: it does not say.
    """
    info: Any = getattr(network, "feature_info", None)
    if info is not None:
        entries = info if isinstance(info, list) else info.get_dicts()
        found = {entry["reduction"]: entry["module"] for entry in entries}  # the last of each stride
        if all(stride in found for stride in STRIDES):
            return [found[stride] for stride in STRIDES]
    if all(hasattr(network, name) for name in RESNET):
        return list(RESNET)
    strides = ", ".join(map(str, STRIDES))
    raise SettingError(
        f"{type(network).__name__} does not say where its maps of strides {strides} are; give layers=(...)"
    )


def _channels(network: nn.Module, names: Sequence[str]) -> list[int]:
    """Channels of the maps, from a run without memory."""
    missing = [name for name in names if name not in dict(network.named_modules())]
    if missing:
        raise SettingError(f"no layer {missing[0]!r} in {type(network).__name__}")

    def run(twin: nn.Module, images: Tensor) -> dict[str, torch.Size]:
        found: dict[str, torch.Size] = {}
        for name in names:
            twin.get_submodule(name).register_forward_hook(
                lambda module, args, out, name=name: found.update({name: out.shape})
            )
        twin(images)
        return found

    found = dry_run(network, (3, 224, 224), run)
    sides: list[int] = []
    for name in names:
        shape = found.get(name)
        if shape is None or len(shape) != 4 or (sides and shape[2] != -(-sides[-1] // 2)):
            raise SettingError(
                f"layer {name!r} gives {tuple(shape or ())}; each must give maps of half the side of the one before"
            )
        sides.append(shape[2])
    if sides[0] > 56:
        raise SettingError(
            f"the first maps have stride {224 // sides[0]}, and a pyramid starts at 4 or more: take a network for large images"
        )
    return [found[name][1] for name in names]
