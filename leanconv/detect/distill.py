"""Feature distillation: the backbone of a detector learns to give the feature maps of a teacher, on the same photos."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from leanconv.core.copying import copied
from leanconv.core.errors import SettingError
from leanconv.core.modes import in_eval
from leanconv.train.distill import weights_digest


def maps_loss(student: Mapping[str, Tensor], teacher: Mapping[str, Tensor]) -> Tensor:
    """|| s - t ||^2 / || t - mean(t) ||^2 of each feature map, the mean over the maps.

    Shape:
        student, teacher: {"0": (N, C, H, W), ...} -> ().

    >>> maps_loss({"0": torch.ones(1, 1, 1, 2)}, {"0": torch.tensor([[[[0.0, 2.0]]]])})
    tensor(1.)
    """
    errors = []
    for name, wanted in teacher.items():
        wanted = wanted.float()
        spread = (wanted - wanted.mean()).square().sum().clamp(min=1e-12)
        errors.append((student[name].float() - wanted).square().sum() / spread)
    return torch.stack(errors).mean()


class MapsDistillation:
    """The loss of a detector's feature maps against those of a teacher.

    The teacher is a frozen copy in eval mode, which no checkpoint holds. It gets the photos as the detector resized, mirrored
    and normalised them in the present step.

    Args:
        teacher: a trained detector with feature maps of the same shapes; it is not changed.
        student: the detector that trains.
        pyramid: compare the levels of the pyramids too.

    Raises:
        SettingError: the feature maps have other shapes.
    """

    def __init__(self, teacher: nn.Module, student: nn.Module, pyramid: bool = False) -> None:
        self.digest = weights_digest(teacher)
        self.pyramid = pyramid
        backbone = copied(teacher.get_submodule("backbone"))
        self.network: Any = in_eval(backbone).requires_grad_(False)
        self.photos: Tensor | None = None
        self.seen: dict[str, Tensor] = {}
        _check_shapes(student, teacher)

    def __deepcopy__(self, memo: dict[int, Any]) -> MapsDistillation:
        return self  # as for `leanconv.train.distill.Distillation`

    def to(self, device: torch.device) -> None:
        """Move the teacher to `device`."""
        self.network.to(device)

    @contextmanager
    def watching(self, student: nn.Module) -> Iterator[None]:
        """Within the block, passes of `student` that compute gradients keep the photos and the maps that `loss` compares."""

        def photos(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            self.photos, self.seen = args[0], {}

        def keep(prefix: str) -> Any:
            def note(module: nn.Module, args: Any, maps: Mapping[str, Tensor]) -> None:
                if torch.is_grad_enabled():
                    self.seen |= {prefix + name: level for name, level in maps.items()}

            return note

        backbone: Any = student.get_submodule("backbone")
        hooks = [backbone.register_forward_pre_hook(photos), backbone.body.register_forward_hook(keep("body."))]
        if self.pyramid:
            hooks.append(backbone.fpn.register_forward_hook(keep("fpn.")))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def loss(self) -> Tensor:
        """The distillation loss of the photos of the last pass."""
        assert self.photos is not None
        seen, self.seen = self.seen, {}
        return maps_loss(seen, self.teach(self.photos))

    @torch.no_grad()
    def teach(self, photos: Tensor) -> dict[str, Tensor]:
        """The teacher's maps of a batch of photos."""
        maps = self.network.body(photos)
        found = {f"body.{name}": level for name, level in maps.items()}
        if self.pyramid:
            found |= {f"fpn.{name}": level for name, level in self.network.fpn(maps).items()}
        return found


def _check_shapes(student: nn.Module, teacher: nn.Module) -> None:
    """Raise SettingError unless both detectors have feature maps of the same numbers of channels."""
    found = [_channels(detector) for detector in (student, teacher)]
    if found[0] != found[1]:
        raise SettingError(
            f"the detector has feature maps of {found[0]} channels, and the teacher of {found[1]}; take a teacher with the same"
        )


def _channels(detector: nn.Module) -> list[int]:
    from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork

    pyramid = detector.get_submodule("backbone.fpn")
    assert isinstance(pyramid, FeaturePyramidNetwork)
    first: list[Any] = [block.get_submodule("0") for block in pyramid.inner_blocks]
    return [*(layer.in_channels for layer in first), first[0].out_channels]
