"""The spec of a convolution: its shapes and settings, without its weights."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from torch import nn

from leanconv.core.errors import SettingError
from leanconv.core.settings import check_choice, check_int

Pair = tuple[int, int]
PADDING_MODES = ("zeros", "reflect", "replicate", "circular")


def pair(value: int | tuple[int, ...] | list[int], name: str) -> Pair:
    """`value` as (height, width); a single number is used for both.

    Raises:
        SettingError: `value` is neither a whole number nor two whole numbers.

    >>> pair(3, "kernel_size")
    (3, 3)
    """
    values = tuple(value) if isinstance(value, tuple | list) else (value, value)
    if len(values) != 2 or not all(isinstance(v, int) and not isinstance(v, bool) for v in values):
        raise SettingError(f"{name}={value!r} must be one whole number or two (height, width)")
    return values


def divisors(*numbers: int) -> list[int]:
    """The whole numbers that divide each of `numbers`, in ascending order.

    >>> divisors(8, 12)
    [1, 2, 4]
    """
    return [d for d in range(1, min(numbers) + 1) if all(n % d == 0 for n in numbers)]


def alternatives(values: list[int]) -> str:
    """The values as text for the way out of an error; a list of more than 8 values is shortened.

    >>> alternatives([1, 2, 4])
    '1, 2 or 4'
    """
    words = [str(v) for v in values]
    if len(words) > 8:
        words = [*words[:4], "...", *words[-3:]]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def blocks_error(
    blocks: int,
    in_channels: int,
    out_channels: int,
    groups: int = 1,
    *,
    setting: str = "blocks",
    unit: str = "channels",
) -> str | None:
    """Why `blocks` cannot tile these channels; None when it can.

    Args:
        setting, unit: what the error calls `blocks`, and what they divide.
    """
    for name, channels in ((f"in_{unit}", in_channels), (f"out_{unit}", out_channels)):
        if channels // groups % blocks:
            each = f" / groups={channels // groups}" if groups > 1 else ""
            options = divisors(in_channels // groups, out_channels // groups)
            return f"{setting}={blocks} must divide {name}={channels}{each}; {alternatives(options)} would"
    return None


def whole_blocks(spec: ConvSpec, align: int, most: int = 8) -> list[int]:
    """The powers of two, from 2 to `most`, into which both widths of each group divide in multiples of `align` channels.

    >>> whole_blocks(ConvSpec(64, 128, 3), align=16)
    [2, 4]
    """
    widths = (spec.in_channels // spec.groups, spec.out_channels // spec.groups)
    powers = [2**power for power in range(1, most.bit_length())]
    return [blocks for blocks in powers if all(width % (blocks * align) == 0 for width in widths)]


def aligned_blocks(spec: ConvSpec, align: int, most: int, setting: str = "blocks") -> int | str:
    """The largest number of blocks, up to `most`, whose widths are multiples of `align` channels; or why only one block is.

    >>> spec = ConvSpec(64, 64, 3)
    >>> aligned_blocks(spec, align=16, most=8)
    4
    >>> aligned_blocks(spec, align=64, most=8)
    'no blocks from 2 to 8 have widths in multiples of align=64 channels in 3x3 64->64; a smaller align would'
    """
    widths = (spec.in_channels // spec.groups, spec.out_channels // spec.groups)
    whole = [n for n in divisors(*widths) if n <= most and all(width // n % align == 0 for width in widths)]
    if most == 1 or (whole and whole[-1] > 1):
        return max(whole, default=1)
    shown = f"{setting} from 2 to {most} have" if most > 2 else f"{setting}=2 has"
    return f"no {shown} widths in multiples of align={align} channels in {spec}; a smaller align would"


def aligned_share(width: int, share: float, align: int) -> int | None:
    """The multiple of `align` nearest to share * width that is above 0 and below `width`; None without one.

    >>> aligned_share(64, 0.4, align=16), aligned_share(16, 0.5, align=16)
    (32, None)
    """
    parts = range(align, width, align)
    return min(parts, key=lambda part: (abs(part - share * width), -part), default=None)


@dataclass(frozen=True, slots=True)
class ConvSpec:
    """The shapes and settings of one 2-d convolution, without its weights. The arguments are those of ``nn.Conv2d``.

    Args:
        kernel_size, stride, dilation: (height, width), or one number for both.
        padding: (height, width), or one number for both, or ``"same"`` (stride 1 only); ``"valid"`` becomes (0, 0).

    Raises:
        SettingError: a value breaks a rule of ``nn.Conv2d``.

    >>> spec = ConvSpec(16, 32, 3, stride=2, padding=1)
    >>> print(spec)
    3x3 16->32, stride 2
    >>> spec.params(), spec.macs((8, 8))
    (4640, 294912)
    """

    in_channels: int
    out_channels: int
    kernel_size: Pair
    stride: Pair = (1, 1)
    padding: Pair | Literal["same"] = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1
    bias: bool = True
    padding_mode: str = "zeros"

    def __post_init__(self) -> None:
        for name in ("kernel_size", "stride", "dilation"):
            object.__setattr__(self, name, pair(getattr(self, name), name))
        padding: Any = (0, 0) if self.padding == "valid" else self.padding
        object.__setattr__(self, "padding", padding if padding == "same" else pair(padding, "padding"))
        self._validate()

    def _validate(self) -> None:
        for name in ("in_channels", "out_channels", "groups"):
            check_int(name, getattr(self, name))
        if self.in_channels % self.groups or self.out_channels % self.groups:
            raise SettingError(
                f"groups={self.groups} must divide in_channels={self.in_channels} and out_channels="
                f"{self.out_channels}; {alternatives(divisors(self.in_channels, self.out_channels))} would"
            )
        for name in ("kernel_size", "stride", "dilation"):
            if min(getattr(self, name)) < 1:
                raise SettingError(f"{name}={getattr(self, name)} must be at least 1")
        if self.padding == "same" and self.stride != (1, 1):
            raise SettingError(f"padding='same' needs stride 1, not {self.stride}; give the padding as numbers")
        if self.padding != "same" and min(self.padding) < 0:
            raise SettingError(f"padding={self.padding} must be at least 0")
        check_choice("padding_mode", self.padding_mode, PADDING_MODES)

    @classmethod
    def of(cls, conv: nn.Conv2d) -> ConvSpec:
        """The spec of `conv`; no other code reads the settings of an ``nn.Conv2d``."""
        return cls(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,  # type: ignore[arg-type]
            conv.stride,  # type: ignore[arg-type]
            conv.padding,  # type: ignore[arg-type]
            conv.dilation,  # type: ignore[arg-type]
            conv.groups,
            conv.bias is not None,
            conv.padding_mode,
        )

    @classmethod
    def of_linear(cls, linear: nn.Linear) -> ConvSpec:
        """The spec of the 1x1 convolution that equals `linear` at each position."""
        return cls(linear.in_features, linear.out_features, (1, 1), bias=linear.bias is not None)

    def kwargs(self) -> dict[str, Any]:
        """The spec as keyword arguments of ``nn.Conv2d`` and of all operators."""
        return asdict(self)

    @property
    def weight_shape(self) -> tuple[int, int, int, int]:
        """The shape of the dense weight: (O, I / groups, kh, kw)."""
        return (self.out_channels, self.in_channels // self.groups, *self.kernel_size)

    @property
    def fan_in(self) -> int:
        """The number of weights of one filter: I / groups * kh * kw."""
        _, i, kh, kw = self.weight_shape
        return i * kh * kw

    @property
    def pointwise(self) -> bool:
        """Whether the kernel is 1x1."""
        return self.kernel_size == (1, 1)

    @property
    def pads(self) -> tuple[int, int, int, int]:
        """Rows and columns added to the input: (left, right, top, bottom), the order of ``F.pad``."""
        if self.padding == "same":  # torch adds an odd row or column at the bottom or at the right
            (th, tw) = (d * (k - 1) for d, k in zip(self.dilation, self.kernel_size, strict=True))
            return (tw // 2, tw - tw // 2, th // 2, th - th // 2)
        (ph, pw) = self.padding
        return (pw, pw, ph, ph)

    @property
    def centre(self) -> Pair | None:
        """The (row, column) of the tap that reads the output's own pixel at stride 1; None without such a tap."""
        left, _, top, _ = self.pads
        (dh, dw), (kh, kw) = self.dilation, self.kernel_size
        row, column = top // dh, left // dw
        return (row, column) if (row * dh, column * dw) == (top, left) and row < kh and column < kw else None

    @property
    def keeps_size(self) -> bool:
        """Whether the output size is the input size divided by the stride, rounded up."""
        left, right, top, bottom = self.pads
        (dh, dw), (kh, kw) = self.dilation, self.kernel_size
        return top + bottom == dh * (kh - 1) and left + right == dw * (kw - 1)

    def params(self) -> int:
        """Parameters of the dense convolution, bias included."""
        return self.out_channels * self.fan_in + self.out_channels * self.bias

    def macs(self, out_hw: Pair) -> int:
        """Multiply-adds of the dense convolution for one image; the bias adds none."""
        return self.out_channels * self.fan_in * out_hw[0] * out_hw[1]

    def __str__(self) -> str:
        kh, kw = self.kernel_size
        parts = [f"{kh}x{kw} {self.in_channels}->{self.out_channels}"]
        if self.stride != (1, 1):
            parts.append(f"stride {self.stride[0] if self.stride[0] == self.stride[1] else self.stride}")
        if self.dilation != (1, 1):
            parts.append(f"dilation {self.dilation[0] if self.dilation[0] == self.dilation[1] else self.dilation}")
        if self.groups > 1:
            parts.append("depthwise" if self.groups == self.in_channels else f"groups {self.groups}")
        return ", ".join(parts)
