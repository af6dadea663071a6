"""Use any network as the backbone of a detector: its feature maps at strides 4 to 32, with a feature pyramid on top."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.models.feature_extraction import create_feature_extractor
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock, FeaturePyramidNetwork

from leanconv.core.errors import SettingError, first_line
from leanconv.core.meta import dry_run
from leanconv.core.operator import ConvOp
from leanconv.core.sharing import check_owners

STRIDES = (4, 8, 16, 32)
# for networks that do not declare their feature maps: torchvision's ResNets, and timm's HRNets
LAYERS = (
    ("layer1", "layer2", "layer3", "layer4"),
    ("incre_modules.0", "incre_modules.1", "incre_modules.2", "incre_modules.3"),
)
PROBES = ((224, 224), (256, 320))  # two image sizes: a globally pooled map has the same size for both


class PyramidBackbone(nn.Module):
    """A network's feature maps, followed by a feature pyramid.

    Args:
        network: a dense or lean network: leanconv's, timm's, torchvision's or your own.
        layers: names of the modules whose outputs are the feature maps, from fine to coarse. None reads the maps of strides 4 to
            32 from the network's ``feature_info``, or else takes the last modules with these strides.
        out_channels: channels of every pyramid level.
        extra: adds more levels on top, see torchvision.
        first: how many of the finest levels are left out (RetinaNet: 1).
        frozen_norms: batch norms of the network keep their statistics, weight and bias.
        frozen: names of the network's modules that are not trained, such as ("conv1", "bn1", "layer1").

    Shape:
        x: (N, 3, H, W), any H and W -> {"0": (N, out_channels, ceil(H / 4), ceil(W / 4)), ...}.

    Raises:
        SettingError: a layer does not exist, there is no batch norm to freeze, the network cannot be traced, or the network
            only takes images of one size. In training: the images are so small that a batch norm gets one value per channel.
        TieError: the chosen layers use weights of layers that are left out.
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
        self.source = (
            network,
        )  # a tuple hides the network: the body has its layers, and its head is not part of the detector
        names = list(layers or feature_layers(network))[first:]
        channels, late = _channels(network, names)
        try:
            # lean layers are not traced into, because they would lose their penalties and the choice of their form
            self.body = create_feature_extractor(
                network,
                {name: str(i) for i, name in enumerate(names)},
                # otherwise some of timm's norms would be traced into; layers after the last map are left out anyway
                tracer_kwargs={"leaf_modules": [ConvOp, _BatchNorm, *late]},
                suppress_diff_warning=True,  # train and eval graphs may differ, for example in dropped paths
            )
        except Exception as error:  # tracing may raise any error
            raise SettingError(
                f"{type(network).__name__} cannot be traced as a backbone ({first_line(error)})"
            ) from error
        _check_sizes(self.body, type(network).__name__)
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
        """The network that the layers belong to, with its own head and its plan."""
        return self.source[0]

    def _norms(self) -> list[nn.Module]:
        return [module for module in self.body.modules() if isinstance(module, _BatchNorm)]

    def train(self, mode: bool = True) -> PyramidBackbone:
        """Switch to training mode (or eval mode); frozen batch norms stay in eval mode."""
        super().train(mode)
        if self.frozen_norms:
            for norm in self._norms():
                norm.eval()
        return self

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        try:
            levels: dict[str, Tensor] = self.fpn(self.body(x))
        except ValueError as error:  # raised by torch's batch norm
            if "more than 1 value per channel" not in str(error):
                raise
            raise SettingError(
                f"{len(x)} photo of {x.shape[-1]}x{x.shape[-2]} pixels gives a batch norm only one value per channel; take "
                "larger photos (min_size), more photos in a step (batch_size), or frozen_norms=True"
            ) from error
        # anchors and boxes take the dtype of the maps, and bfloat16 cannot distinguish the pixels of a large photo
        return {name: level.float() for name, level in levels.items()}


def feature_layers(network: nn.Module) -> list[str]:
    """The names of the modules of `network` whose outputs have strides 4, 8, 16 and 32.

    >>> from leanconv.models.create import create_model
    >>> feature_layers(create_model("spconv_resnet50"))
    ['layer1', 'layer2', 'layer3', 'layer4']

    Raises:
        SettingError: the network does not declare its feature maps, and has no such modules.
    """
    info: Any = getattr(network, "feature_info", None)
    modules = dict(network.named_modules())
    if info is not None:
        entries = info if isinstance(info, list) else info.get_dicts()
        found = {entry["reduction"]: entry["module"] for entry in entries}  # the last module of each stride
        if all(found.get(stride) in modules for stride in STRIDES):
            return [found[stride] for stride in STRIDES]
    for names in LAYERS:
        if all(name in modules for name in names):
            return list(names)
    return _last_of_each_stride(network)


def _last_of_each_stride(network: nn.Module) -> list[str]:
    """The last module with feature maps of each stride, among the children and grandchildren of the network.

    VGG and MobileNet are built so.
    """
    of_stride: list[dict[int, list[str]]] = []
    names = [name for name, _ in network.named_modules() if 0 <= name.count(".") <= 1 and name]
    for size in PROBES:
        found: dict[int, list[str]] = {}
        for name, shape in _outputs(network, names, size)[0].items():
            for stride in STRIDES:
                if shape is not None and shape[2:] == tuple(-(-side // stride) for side in size):
                    found.setdefault(stride, []).append(name)
        of_stride.append(found)
    both = [[name for name in of_stride[0].get(s, []) if name in of_stride[1].get(s, [])] for s in STRIDES]
    if not all(both):
        missing = ", ".join(str(stride) for stride, found in zip(STRIDES, both, strict=True) if not found)
        raise SettingError(
            f"{type(network).__name__} does not say where its maps of strides {', '.join(map(str, STRIDES))} are, and no "
            f"module has maps of stride {missing}; give layers=(...), or take another network"
        )
    return [found[-1] for found in both]


def _outputs(
    network: nn.Module, names: Sequence[str], size: tuple[int, int]
) -> tuple[dict[str, tuple[int, ...] | None], set[type[nn.Module]]]:
    """The output shapes of the named modules, in the order in which they end (None if the output is not a feature map), and the
    types of the modules that only run after the last of them. The run is on the meta device."""
    found: dict[str, tuple[int, ...] | None] = {}
    early: set[type[nn.Module]] = set()
    late: set[type[nn.Module]] = set()
    wanted = set(names)

    def ended(name: str, out: Any) -> None:
        found.pop(name, None)
        found[name] = tuple(out.shape) if isinstance(out, Tensor) and out.ndim == 4 else None

    def run(twin: nn.Module, images: Tensor) -> None:
        for record in (found, early, late):
            record.clear()
        for name, module in twin.named_modules():
            if name in wanted:
                module.register_forward_hook(lambda module, args, out, name=name: ended(name, out))
            module.register_forward_pre_hook(
                lambda module, args: (late if wanted <= found.keys() else early).add(type(module))
            )
        twin(images)

    try:
        dry_run(network, (3, *size), run)
    except SettingError:
        if not wanted <= found.keys() or size == PROBES[0]:
            raise
    return found, {kind for kind in late - early if kind.__module__ != "torch.nn.modules.container"}


def _channels(network: nn.Module, names: Sequence[str]) -> tuple[list[int], set[type[nn.Module]]]:
    """The channels of the feature maps, and the types of the modules that only run after them."""
    modules = dict(network.named_modules())
    missing = [name for name in names if name not in modules]
    if missing:
        raise SettingError(f"no layer {missing[0]!r} in {type(network).__name__}")
    found, late = _outputs(network, names, PROBES[0])
    sides: list[int] = []
    for name in names:
        shape = found.get(name)
        if shape is not None and shape[1] == shape[2] != shape[3]:
            raise SettingError(
                f"layer {name!r} gives {shape}, with channels last, as Swin does; a pyramid needs (N, C, H, W)"
            )
        if shape is None or shape[2] != shape[3] or (sides and shape[2] != -(-sides[-1] // 2)):
            raise SettingError(
                f"layer {name!r} gives {shape or ()}; each layer must halve the side of the maps of the layer before"
            )
        sides.append(shape[2])
    if sides[0] > 56:
        raise SettingError(
            f"the first maps have stride {224 // sides[0]}, and a pyramid starts at 4 or more; take a network for large images"
        )
    return [shape[1] for name in names if (shape := found[name]) is not None], late


def _check_sizes(body: nn.Module, name: str) -> None:
    """Raise SettingError if the network only takes images of one size."""
    height, width = PROBES[1]
    try:
        shapes = dry_run(body, (3, height, width), lambda twin, images: [out.shape for out in twin(images).values()])
    except SettingError as error:
        raise SettingError(
            f"{name} does not run on photos of every size ({first_line(error)}); take a network of convolutions"
        ) from error
    if any(shape[3] * height != shape[2] * width for shape in shapes):
        raise SettingError(f"{name} gives maps of one size for photos of every size; take a network of convolutions")
