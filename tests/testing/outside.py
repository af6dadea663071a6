"""An operator in somebody else's package: the text of its one file, and how it is installed without pip."""

from __future__ import annotations

from pathlib import Path

CIRCULANT = '''
"""Block-circulant convolutions, as another package would have them."""

from dataclasses import dataclass

import torch
from torch import nn

from leanconv.core.method import Method
from leanconv.core.operator import LinearOp
from leanconv.core.spec import alternatives, divisors
from leanconv.core.weight import WeightView


class BlockCirculantConv2d(LinearOp):
    """W[p b + i, q b + j] = weight[p b + (j - i) mod b, q]: each b x b block of channels is circulant."""

    def __init__(self, in_channels, out_channels, kernel_size, stride=1, padding=0, dilation=1, groups=1, bias=True,
                 padding_mode="zeros", *, size=2):
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode)
        self.size = size
        width = in_channels // groups // size
        self.bank = nn.Parameter(torch.randn(out_channels, width, *self.kernel_size) / self.spec.fan_in**0.5)
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        step = torch.arange(size)
        self.register_buffer("which", (step[None] - step[:, None]) % size)  # constant, and in the state dict

    @property
    def weight(self):
        return WeightView(self, self.bank)

    def settings(self):
        return {"size": self.size}

    def convolve(self, x):
        return self.conv2d(x, self.weight_dense(), self.bias, self.groups)

    def weight_dense(self):
        diagonals = self.bank.unflatten(0, (-1, self.size))  # (p, diagonal, q, kh, kw)
        return diagonals[:, self.which].movedim(2, 3).flatten(2, 3).flatten(0, 1)  # (p, i, j, q, ...) -> (p i, q j, ...)

    def bias_dense(self):
        return self.bias


@dataclass(frozen=True)
class BlockCirculant(Method):
    """Circulant blocks of channels: O I k / b parameters, MACs as before."""

    size: int = 2

    def reject(self, spec):
        channels = (spec.in_channels // spec.groups, spec.out_channels // spec.groups)
        if any(c % self.size for c in channels):
            return f"size={self.size} must divide the channels {channels}; {alternatives(divisors(*channels))} would"
        return None

    def build(self, specs):
        return [BlockCirculantConv2d(**spec.kwargs(), size=self.size) for spec in specs]

    def params(self, specs):
        return sum(s.out_channels * s.fan_in // self.size + s.out_channels * s.bias for s in specs)

    def macs(self, specs, index, out_hw):
        return specs[index].macs(out_hw)

    def degenerate(self, spec):
        return BlockCirculant(size=1)

    def fit_(self, modules, convs):
        for module, conv in zip(modules, convs, strict=True):
            b = self.size
            blocks = conv.weight.unflatten(1, (-1, b)).unflatten(0, (-1, b))  # (p, i, q, j, kh, kw)
            rows = torch.arange(b, device=conv.weight.device)
            for diagonal in range(b):
                entries = blocks[:, rows, :, (rows + diagonal) % b]  # (i, p, q, kh, kw)
                module.bank.unflatten(0, (-1, b))[:, diagonal].copy_(entries.mean(0))
            if module.bias is not None:
                module.bias.copy_(conv.bias)
'''
WRONG = CIRCULANT.replace("entries.mean(0)", "entries[0]")  # the first entry of each diagonal


def install(folder: Path, source: str = CIRCULANT, name: str = "circulant", entry: str | None = None) -> Path:
    """A package with one operator in `folder`, as pip would leave it; put that folder on the path."""
    package, info = folder / name, folder / f"{name}-0.3.dist-info"
    package.mkdir(parents=True)
    info.mkdir()
    (package / "__init__.py").write_text("")
    (package / "operator.py").write_text(source)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.3\n")
    entry = f"block_circulant = {name}.operator:BlockCirculant" if entry is None else entry
    if entry:
        (info / "entry_points.txt").write_text(f"[leanconv.methods]\n{entry}\n")
    return folder
