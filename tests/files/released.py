"""Networks as the papers' releases have them: their names, written here from the equations, without leanconv's classes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def conv(i: int, o: int, k: int = 3, stride: int = 1, groups: int = 1, bias: bool = False) -> nn.Conv2d:
    return nn.Conv2d(i, o, k, stride, k // 2, groups=groups, bias=bias)


class Lambda(nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def option_a(i: int, o: int, stride: int, padding: str) -> nn.Module:
    """Zeros for new channels: half on each side, or all behind."""
    if i == o:
        return nn.Sequential()
    new = o - i
    sides = (new // 2, new - new // 2) if padding == "both" else (0, new)
    return Lambda(lambda x: F.pad(x[:, :, ::stride, ::stride], (0, 0, 0, 0, *sides)))


class Basic(nn.Module):
    def __init__(self, i: int, o: int, stride: int, padding: str) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv(i, o, stride=stride), nn.BatchNorm2d(o)
        self.conv2, self.bn2 = conv(o, o), nn.BatchNorm2d(o)
        self.shortcut = option_a(i, o, stride, padding)

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        return (out + self.shortcut(x)).relu()


class BasisBasic(nn.Module):
    """Both convolutions: [own, shared] filters, a norm, coefficients; one basis for both, or one each."""

    def __init__(self, width: int, unique: int, banks: list[nn.Conv2d]) -> None:
        super().__init__()
        names = ["shared_basis"] if len(banks) == 1 else ["shared_basis_1", "shared_basis_2"]
        for name, bank in zip(names, banks, strict=True):
            self.add_module(name, bank)
        self.names = [names[0], names[-1]]
        rank = unique + banks[0].out_channels
        for n in (1, 2):
            self.add_module(f"basis_conv{n}", conv(width, unique))
            self.add_module(f"basis_bn{n}", nn.BatchNorm2d(rank))
            self.add_module(f"coeff_conv{n}", conv(rank, width, 1))
            self.add_module(f"bn{n}", nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        get = self.get_submodule
        out = x
        for n in (1, 2):
            both = torch.cat([get(f"basis_conv{n}")(out), get(self.names[n - 1])(out)], 1)
            out = get(f"bn{n}")(get(f"coeff_conv{n}")(get(f"basis_bn{n}")(both)))
            out = out.relu() if n == 1 else (out + x).relu()
        return out


class ThreeStages(nn.Module):
    """6n+2 layers for CIFAR; with `shared`, behind the first block of a stage, bases."""

    def __init__(
        self, blocks: int, padding: str, classifier: str, shared: int = 0, unique: int = 1, bases: int = 1
    ) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv(3, 16), nn.BatchNorm2d(16)
        before = 16
        for stage in range(3):
            width = 16 * 2**stage
            banks = [conv(width, shared * 2**stage) for _ in range(bases)] if shared else []
            for n, bank in enumerate(banks, 1):
                self.add_module(f"shared_basis_{stage + 1}" + (f"_{n}" if bases == 2 else ""), bank)
            layers: list[nn.Module] = [Basic(before, width, 1 if stage == 0 else 2, padding)]
            for _ in range(blocks - 1):
                layers.append(
                    BasisBasic(width, unique * 2**stage, banks) if shared else Basic(width, width, 1, padding)
                )
            self.add_module(f"layer{stage + 1}", nn.Sequential(*layers))
            before = width
        self.classifier = classifier
        self.add_module(classifier, nn.Linear(64, 10))

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn1(self.conv1(x)).relu()
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.get_submodule(self.classifier)(x.mean((2, 3)))


class Inverted(nn.Module):
    """Expand, depthwise, project; `shared` stands at the numbered places."""

    def __init__(self, i: int, o: int, t: int, stride: int, projects: bool, shared: dict[int, nn.Conv2d]) -> None:
        super().__init__()
        mid = t * i
        own = {1: conv(i, mid, 1), 2: conv(mid, mid, 3, stride, mid), 3: conv(mid, o, 1)}
        self.names = {}
        for n, made in own.items():
            place = list(shared).index(n) + 1 if n in shared else 0
            self.names[n] = f"shared_basis{place}" if place else f"conv{n}"
            self.add_module(self.names[n], shared.get(n, made))
            self.add_module(f"bn{n}", nn.BatchNorm2d(o if n == 3 else mid))
        self.adds = stride == 1 and (projects or i == o)
        self.shortcut = nn.Sequential()
        if self.adds and i != o:
            self.shortcut = nn.Sequential(conv(i, o, 1), nn.BatchNorm2d(o))

    def forward(self, x: Tensor) -> Tensor:
        out = x
        for n in (1, 2, 3):
            out = self.get_submodule(f"bn{n}")(self.get_submodule(self.names[n])(out))
            out = out.relu() if n < 3 else out
        return out + self.shortcut(x) if self.adds else out


class MobileNetV2(nn.Module):
    def __init__(self, small: bool, places: tuple[int, ...] = ()) -> None:
        super().__init__()
        stem = nn.Conv2d(3, 32, 1, padding=1) if small else nn.Conv2d(3, 32, 3, 2, 1)
        self.pre = nn.Sequential(stem, nn.BatchNorm2d(32), nn.ReLU6())
        rows = [(1, 16, 1), (6, 24, 2), (6, 32, 3), (6, 64, 4), (6, 96, 3), (6, 160, 3), (6, 320, 1)]
        strides = (1, 2, 2, 2, 1, 1, 1) if small else (1, 2, 2, 2, 1, 2, 1)
        before, groups = 32, 0
        for stage, ((t, width, depth), stride) in enumerate(zip(rows, strides, strict=True), 1):
            shared: dict[int, nn.Conv2d] = {}
            if stage in (3, 4, 5, 6) and places:
                groups += 1
                mid = 6 * width
                made = {1: conv(width, mid, 1), 2: conv(mid, mid, 3, 1, mid), 3: conv(mid, width, 1)}
                shared = {place: made[place] for place in places}
                for n, place in enumerate(places, 1):
                    self.add_module(f"shared_basis_{groups}" + (f"_{n}" if len(places) > 1 else ""), made[place])
            blocks = [Inverted(before, width, t, stride, small, {})]
            blocks += [Inverted(width, width, t, 1, small, shared) for _ in range(depth - 1)]
            self.add_module(f"stage{stage}", blocks[0] if depth == 1 else nn.Sequential(*blocks))
            before = width
        self.conv1 = nn.Sequential(nn.Conv2d(320, 1280, 1), nn.BatchNorm2d(1280), nn.ReLU6())
        self.small = small
        if small:
            self.conv2 = nn.Conv2d(1280, 100, 1)
        else:
            self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, 100))

    def forward(self, x: Tensor) -> Tensor:
        x = self.pre(x)
        for stage in range(1, 8):
            x = self.get_submodule(f"stage{stage}")(x)
        x = F.adaptive_avg_pool2d(self.conv1(x), 1)
        return self.conv2(x).flatten(1) if self.small else self.classifier(x.flatten(1))


class NextBlock(nn.Module):
    """Three convolutions as a list, or with a grouped basis in the middle."""

    def __init__(self, i: int, planes: int, stride: int, basis: nn.Conv2d | None, unique: int) -> None:
        super().__init__()
        width, o = 2 * planes, 4 * planes
        self.basis = basis is not None
        if basis is None:
            layers = [conv(i, width, 1), nn.BatchNorm2d(width), nn.ReLU(), conv(width, width, 3, stride, 32)]
            layers += [nn.BatchNorm2d(width), nn.ReLU(), conv(width, o, 1), nn.BatchNorm2d(o)]
            self.residual_function = nn.Sequential(*layers)
        else:
            rank = unique + basis.out_channels
            self.shared_basis = basis
            self.conv1, self.bn1 = conv(i, width, 1), nn.BatchNorm2d(width)
            self.basis_conv2, self.bn2 = conv(width, unique, 3, 1, unique // 4), nn.BatchNorm2d(rank)
            self.conv3, self.bn3 = conv(rank, o, 1), nn.BatchNorm2d(o)
        self.shortcut = nn.Sequential()
        if stride != 1 or i != o:
            self.shortcut = nn.Sequential(conv(i, o, 1, stride), nn.BatchNorm2d(o))

    def forward(self, x: Tensor) -> Tensor:
        if not self.basis:
            return (self.residual_function(x) + self.shortcut(x)).relu()
        out = self.bn1(self.conv1(x)).relu()
        out = self.bn2(torch.cat([self.basis_conv2(out), self.shared_basis(out)], 1)).relu()
        return (self.bn3(self.conv3(out)) + self.shortcut(x)).relu()


class ResNeXt50(nn.Module):
    def __init__(self, shared: int = 0, unique: int = 4) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv(3, 64), nn.BatchNorm2d(64)
        before = 64
        for stage, depth in enumerate((3, 4, 6, 3)):
            planes = 64 * 2**stage
            bank = conv(2 * planes, shared * 2**stage, 3, 1, 16) if shared else None
            if bank is not None:
                self.add_module(f"shared_basis_{stage + 1}", bank)
            blocks = [NextBlock(before, planes, 1 if stage == 0 else 2, None, 0)]
            blocks += [NextBlock(4 * planes, planes, 1, bank, unique * 2**stage) for _ in range(depth - 1)]
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
            before = 4 * planes
        self.linear = nn.Linear(2048, 100)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn1(self.conv1(x)).relu()
        return self.linear(self.layer4(self.layer3(self.layer2(self.layer1(x)))).mean((2, 3)))


class DenseLayer(nn.Module):
    def __init__(self, i: int, basis: nn.Conv2d | None, unique: int) -> None:
        super().__init__()
        self.basis = basis is not None
        if basis is None:
            layers = [nn.BatchNorm2d(i), nn.ReLU(), conv(i, 128, 1), nn.BatchNorm2d(128), nn.ReLU(), conv(128, 32)]
            self.residual_function = nn.Sequential(*layers)
        else:
            rank = unique + basis.out_channels
            self.shared_basis = basis
            self.bn0, self.conv1, self.bn1 = nn.BatchNorm2d(i), conv(i, 128, 1), nn.BatchNorm2d(128)
            self.basis_conv2, self.basis_bn2 = conv(128, unique), nn.BatchNorm2d(rank)
            self.coeff_conv2 = conv(rank, 32, 1)

    def forward(self, x: Tensor) -> Tensor:
        if not self.basis:
            return torch.cat([x, self.residual_function(x)], 1)
        out = self.bn1(self.conv1(self.bn0(x).relu())).relu()
        out = self.basis_bn2(torch.cat([self.basis_conv2(out), self.shared_basis(out)], 1))
        return torch.cat([x, self.coeff_conv2(out)], 1)


class Transition(nn.Module):
    """Norm, 1x1, average pool: no ReLU."""

    def __init__(self, i: int) -> None:
        super().__init__()
        self.down_sample = nn.Sequential(nn.BatchNorm2d(i), conv(i, i // 2, 1), nn.AvgPool2d(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.down_sample(x)


class DenseNet121(nn.Module):
    """The fourth dense block uses the third's basis, and the fourth basis nobody."""

    def __init__(self, shared: int = 0, unique: int = 1) -> None:
        super().__init__()
        self.conv1 = conv(3, 64)
        banks = [conv(128, shared) for _ in range(4)] if shared else [None] * 4
        for n, bank in enumerate(banks, 1):
            if bank is not None:
                self.add_module(f"shared_basis_{n}", bank)
        self.features = nn.Sequential()
        channels = 64
        for index, depth in enumerate((6, 12, 24, 16)):
            block = nn.Sequential()
            for n in range(depth):
                block.add_module(f"bottle_neck_layer_{n}", DenseLayer(channels, banks[min(index, 2)], unique))
                channels += 32
            last = index == 3
            self.features.add_module(f"dense_block{'' if last and not shared else '_layer_'}{index}", block)
            if not last:
                self.features.add_module(f"transition_layer_{index}", Transition(channels))
                channels //= 2
        self.features.add_module("bn", nn.BatchNorm2d(channels))
        self.features.add_module("relu", nn.ReLU())
        self.linear = nn.Linear(channels, 100)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.features(self.conv1(x)).mean((2, 3)))


class Bottleneck(nn.Module):
    """1x1, 3x3 with the stride, 1x1; the shared convolutions stand in place of conv2 and conv3."""

    def __init__(self, i: int, planes: int, stride: int, shared: list[nn.Conv2d]) -> None:
        super().__init__()
        o = 4 * planes
        self.conv1, self.bn1, self.bn2, self.bn3 = (
            conv(i, planes, 1), nn.BatchNorm2d(planes), nn.BatchNorm2d(planes), nn.BatchNorm2d(o),
        )  # fmt: skip
        self.names = ("shared_basis_1", "shared_basis_2") if shared else ("conv2", "conv3")
        for name, module in zip(
            self.names, shared or [conv(planes, planes, 3, stride), conv(planes, o, 1)], strict=True
        ):
            self.add_module(name, module)
        self.shortcut = nn.Sequential()
        if stride != 1 or i != o:
            self.shortcut = nn.Sequential(conv(i, o, 1, stride), nn.BatchNorm2d(o))

    def forward(self, x: Tensor) -> Tensor:
        middle, last = (self.get_submodule(name) for name in self.names)
        out = self.bn2(middle(self.bn1(self.conv1(x)).relu())).relu()
        return (self.bn3(last(out)) + self.shortcut(x)).relu()


class SharedResNet(nn.Module):
    """For ImageNet: behind a stage's first block, the 3x3 and the last 1x1 are the stage's."""

    def __init__(self, depths: tuple[int, ...]) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)
        before = 64
        for stage, depth in enumerate(depths):
            planes = 64 * 2**stage
            shared = [conv(planes, planes), conv(planes, 4 * planes, 1)]
            for n, bank in enumerate(shared, 1):
                self.add_module(f"shared_basis_{stage + 1}_{n}", bank)
            blocks = [Bottleneck(before, planes, 1 if stage == 0 else 2, [])]
            blocks += [Bottleneck(4 * planes, planes, 1, shared) for _ in range(depth - 1)]
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
            before = 4 * planes
        self.fc = nn.Linear(2048, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.bn1(self.conv1(x)).relu(), 3, 2, 1)
        return self.fc(self.layer4(self.layer3(self.layer2(self.layer1(x)))).mean((2, 3)))
