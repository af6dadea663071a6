"""Awkward convolutions: nn.Conv2d accepts all of them, and each one reveals a mistake that operators may have."""

from __future__ import annotations

from leanconv.core.spec import ConvSpec

SPECS: dict[str, ConvSpec] = {
    "3x3": ConvSpec(8, 16, (3, 3), padding=(1, 1), bias=False),
    "3x3 square": ConvSpec(16, 16, (3, 3), padding=(1, 1), bias=False),
    "bias": ConvSpec(8, 16, (3, 3), padding=(1, 1)),
    "stride 2": ConvSpec(8, 16, (3, 3), (2, 2), (1, 1), bias=False),
    "stride (1, 2)": ConvSpec(8, 8, (3, 3), (1, 2), (1, 1)),
    "stride 3": ConvSpec(8, 8, (3, 3), (3, 3), (1, 1)),
    "dilation 2": ConvSpec(8, 16, (3, 3), padding=(2, 2), dilation=(2, 2)),
    "stride 2 dilation 2": ConvSpec(8, 16, (3, 3), (2, 2), (2, 2), (2, 2)),
    "3x1": ConvSpec(8, 8, (3, 1), padding=(1, 0)),
    "1x1": ConvSpec(8, 16, (1, 1)),
    "1x1 stride 2": ConvSpec(8, 16, (1, 1), (2, 2), bias=False),
    "same": ConvSpec(8, 8, (3, 3), padding="same"),
    "same, even kernel": ConvSpec(8, 8, (2, 4), padding="same"),
    "same, circular": ConvSpec(8, 8, (3, 3), padding="same", padding_mode="circular"),
    "reflect": ConvSpec(8, 8, (3, 3), padding=(1, 1), padding_mode="reflect"),
    "replicate, stride 2": ConvSpec(8, 8, (3, 3), (2, 2), (1, 1), padding_mode="replicate"),
    "no padding": ConvSpec(8, 16, (3, 3)),
    "groups": ConvSpec(8, 16, (3, 3), padding=(1, 1), groups=2),
    "depthwise": ConvSpec(8, 8, (3, 3), padding=(1, 1), groups=8),
    "uneven": ConvSpec(6, 10, (5, 5), padding=(2, 2)),
}
SIZES = [(8, 8), (7, 9), (3, 3)]
LAYERS = 3  # parallel layers of one spec: methods that share weights convert them as one group
