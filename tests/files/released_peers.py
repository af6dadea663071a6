"""The releases of Tied Block Convolution, SPConv, soft sharing and Octave Convolution, as `tests.files.released`."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.files.released import conv


class Bank(nn.Module):
    def __init__(self, templates: int, width: int) -> None:
        super().__init__()
        self.templates = nn.Parameter(torch.randn(templates, width, width, 3, 3) * (2 / (9 * width)) ** 0.5)


class Soft(nn.Module):
    """A convolution whose weight is a sum of templates."""

    def __init__(self, bank: Bank) -> None:
        super().__init__()
        self.bank = bank
        self.coefficients = nn.Parameter(torch.randn(len(bank.templates), 1, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, (self.bank.templates * self.coefficients).sum(0), padding=1)


class SoftBlock(nn.Module):
    def __init__(self, i: int, o: int, stride: int, bank: Bank | None) -> None:
        super().__init__()
        self.bank = bank
        self.bn1, self.bn2 = nn.BatchNorm2d(i), nn.BatchNorm2d(o)
        self.conv1 = conv(i, o, 3, stride) if bank is None else Soft(bank)
        self.conv2 = conv(o, o) if bank is None else Soft(bank)
        self.convShortcut = conv(i, o, 1, stride) if i != o else None

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn1(x).relu()
        rest = x if self.convShortcut is None else self.convShortcut(out)
        return self.conv2(self.bn2(self.conv1(out)).relu()) + rest


class SWRN(nn.Module):
    def __init__(self, blocks: int, widen: int, templates: int) -> None:
        super().__init__()
        self.conv_3x3 = conv(3, 16)
        before = 16
        for stage in range(3):
            width = 16 * widen * 2**stage
            bank = Bank(templates, width)
            self.add_module(f"bank_{stage + 1}", bank)
            layers = [SoftBlock(before, width, 1 if stage == 0 else 2, None)]
            layers += [SoftBlock(width, width, 1, bank) for _ in range(blocks - 1)]
            self.add_module(f"stage_{stage + 1}", nn.Sequential(*layers))
            before = width
        self.lastact = nn.Sequential(nn.BatchNorm2d(before), nn.ReLU())
        self.classifier = nn.Linear(before, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stage_3(self.stage_2(self.stage_1(self.conv_3x3(x))))
        return self.classifier(self.lastact(x).mean((2, 3)))


class Octave(nn.Module):
    """Maps in pairs; at stride 2 both are pooled before."""

    def __init__(self, i: int, o: int, k: int, stride: int, a: float, b: float) -> None:
        super().__init__()
        low_in, low_out = int(a * i), int(b * o)
        self.stride = stride
        for name, left, right in (
            ("conv_h2h", i - low_in, o - low_out),
            ("conv_h2l", i - low_in, low_out),
            ("conv_l2h", low_in, o - low_out),
            ("conv_l2l", low_in, low_out),
        ):
            self.add_module(name, conv(left, right, k) if left and right else None)

    def forward(self, x):
        high, low = x
        if self.stride == 2:
            high = F.avg_pool2d(high, 2)
        new_high = self.conv_h2h(high)
        new_low = None if self.conv_h2l is None else self.conv_h2l(F.avg_pool2d(high, 2))
        if low is not None:
            from_low = self.conv_l2h(low)
            new_high = new_high + (from_low if self.stride == 2 else F.interpolate(from_low, scale_factor=2))
            if self.conv_l2l is not None:
                new_low = new_low + self.conv_l2l(F.avg_pool2d(low, 2) if self.stride == 2 else low)
        return new_high, new_low


class OctaveNorm(nn.Module):
    def __init__(self, i: int, o: int, k: int, stride: int, a: float, b: float, relu: bool) -> None:
        super().__init__()
        self.conv = Octave(i, o, k, stride, a, b)
        self.bn_h = nn.BatchNorm2d(o - int(b * o))
        self.bn_l = nn.BatchNorm2d(int(b * o)) if b else None
        self.act = nn.ReLU() if relu else nn.Identity()

    def forward(self, x):
        high, low = self.conv(x)
        return self.act(self.bn_h(high)), None if low is None else self.act(self.bn_l(low))


class OctaveBlock(nn.Module):
    def __init__(self, i: int, planes: int, stride: int, a: float, b: float) -> None:
        super().__init__()
        o = 4 * planes
        self.conv1 = OctaveNorm(i, planes, 1, 1, a, b, True)
        self.conv2 = OctaveNorm(planes, planes, 3, stride, b, b, True)
        self.conv3 = OctaveNorm(planes, o, 1, 1, b, b, False)
        self.downsample = nn.Sequential(OctaveNorm(i, o, 1, stride, a, b, False)) if stride != 1 or i != o else None

    def forward(self, x):
        high, low = self.conv3(self.conv2(self.conv1(x)))
        other_high, other_low = x if self.downsample is None else self.downsample(x)
        return (high + other_high).relu(), None if low is None else (low + other_low).relu()


class OctResNet(nn.Module):
    def __init__(self, depths: tuple[int, ...]) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)
        before, a = 64, 0.0
        for stage, depth in enumerate(depths):
            planes, b = 64 * 2**stage, 0.0 if stage == 3 else 0.5
            blocks = [OctaveBlock(before, planes, 1 if stage == 0 else 2, a, b)]
            blocks += [OctaveBlock(4 * planes, planes, 1, b, b) for _ in range(depth - 1)]
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
            before, a = 4 * planes, b
        self.fc = nn.Linear(2048, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.bn1(self.conv1(x)).relu(), 3, 2, 1)
        pair = self.layer4(self.layer3(self.layer2(self.layer1((x, None)))))
        return self.fc(pair[0].mean((2, 3)))


class TiedLinear(nn.Module):
    """Blocks as further rows, the layer in `linear`."""

    def __init__(self, i: int, o: int, blocks: int) -> None:
        super().__init__()
        self.blocks, self.linear = blocks, nn.Linear(i // blocks, o // blocks)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.linear(part) for part in x.chunk(self.blocks, 1)], 1)


class SPConv(nn.Module):
    """A grouped 3x3 and a 1x1 on the first half, a 1x1 on the second, weighed by their means."""

    def __init__(self, i: int, o: int, stride: int) -> None:
        super().__init__()
        self.half, self.stride = i // 2, stride
        self.gwc, self.pwc = conv(i // 2, o, 3, stride, 2), conv(i // 2, o, 1)
        self.conv1x1 = conv(i - i // 2, o, 1, bias=True)
        self.bn1, self.bn2 = nn.BatchNorm2d(o), nn.BatchNorm2d(o)

    def forward(self, x: Tensor) -> Tensor:
        pooled = F.avg_pool2d(x, 2) if self.stride == 2 else x
        a = self.bn1(self.gwc(x[:, : self.half]) + self.pwc(pooled[:, : self.half]))
        b = self.bn2(self.conv1x1(pooled[:, self.half :]))
        gates = torch.stack([a.mean((2, 3)), b.mean((2, 3))], 2).softmax(2)[..., None, None]
        return a * gates[:, :, 0] + b * gates[:, :, 1]


class SplitBasic(nn.Module):
    def __init__(self, i: int, o: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1, self.conv2, self.bn2 = (
            SPConv(i, o, stride), nn.BatchNorm2d(o), SPConv(o, o, 1), nn.BatchNorm2d(o),
        )  # fmt: skip
        self.downsample = nn.Sequential(conv(i, o, 1, stride), nn.BatchNorm2d(o)) if i != o else None

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        return (out + (x if self.downsample is None else self.downsample(x))).relu()


class SplitResNet20(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv(3, 16), nn.BatchNorm2d(16)
        before = 16
        for stage in range(3):
            width = 16 * 2**stage
            blocks = [SplitBasic(before if n == 0 else width, width, 2 if stage and n == 0 else 1) for n in range(3)]
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
            before = width
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer3(self.layer2(self.layer1(self.bn1(self.conv1(x)).relu())))
        return self.linear(x.mean((2, 3)))


class TiedConv(nn.Module):
    """Blocks as further images, the bank in `conv`."""

    def __init__(self, i: int, o: int, blocks: int) -> None:
        super().__init__()
        self.blocks, self.conv = blocks, conv(i // blocks, o // blocks)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.conv(part) for part in x.chunk(self.blocks, 1)], 1)


class TiedSE(nn.Module):
    def __init__(self, channels: int, blocks: int, reduction: int) -> None:
        super().__init__()
        self.blocks, width = blocks, channels // blocks
        self.fc = nn.Sequential(
            nn.Linear(width, width // reduction), nn.ReLU(), nn.Linear(width // reduction, width), nn.Sigmoid()
        )

    def forward(self, x: Tensor) -> Tensor:
        gates = [self.fc(part.mean((2, 3))) for part in x.chunk(self.blocks, 1)]
        return x * torch.cat(gates, 1)[:, :, None, None]
