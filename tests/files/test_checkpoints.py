"""Checkpoints under the releases' names: their layers, written here from the papers' equations, against ours."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import leanconv as lc
from leanconv.cli import main
from leanconv.core.errors import FileError
from tests.ops.contract import unsettle_


class Tied(nn.Module):
    """Blocks as further images, the bank in `conv`."""

    def __init__(self, in_channels: int, out_channels: int, blocks: int) -> None:
        super().__init__()
        self.blocks = blocks
        self.conv = nn.Conv2d(in_channels // blocks, out_channels // blocks, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.conv(part) for part in x.chunk(self.blocks, 1)], 1)


class SquaredSE(nn.Module):
    def __init__(self, channels: int, blocks: int, reduction: int) -> None:
        super().__init__()
        self.blocks = blocks
        width = channels // blocks
        self.fc = nn.Sequential(
            nn.Linear(width, width // reduction), nn.ReLU(), nn.Linear(width // reduction, width), nn.Sigmoid()
        )

    def forward(self, x: Tensor) -> Tensor:
        gates = [self.fc(part.mean((2, 3))) for part in x.chunk(self.blocks, 1)]
        return x * torch.cat(gates, 1)[:, :, None, None]


class SPConv(nn.Module):
    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        half = channels // 2
        self.half = half
        self.gwc = nn.Conv2d(half, channels, 3, stride, 1, groups=2, bias=False)
        self.pwc = nn.Conv2d(half, channels, 1, bias=False)
        self.conv1x1 = nn.Conv2d(half, channels, 1)
        self.bn1, self.bn2 = nn.BatchNorm2d(channels), nn.BatchNorm2d(channels)
        self.pool = nn.AvgPool2d(2) if stride == 2 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        a, b = x[:, : self.half], x[:, self.half :]
        a = self.bn1(self.gwc(a) + self.pwc(self.pool(a)))
        b = self.bn2(self.conv1x1(self.pool(b)))
        gates = torch.stack([a.mean((2, 3)), b.mean((2, 3))], 2).softmax(2)[..., None, None]
        return a * gates[:, :, 0] + b * gates[:, :, 1]


class BasisBlock(nn.Module):
    def __init__(self, width: int, unique: int, shared: list[nn.Conv2d]) -> None:
        super().__init__()
        double = len(shared) == 2
        if double:
            self.shared_basis_1, self.shared_basis_2 = shared
        else:
            self.shared_basis = shared[0]
        self.shared = [f"shared_basis_{i}" if double else "shared_basis" for i in (1, 2)]
        rank = unique + shared[0].out_channels
        for i in (1, 2):
            self.add_module(f"basis_conv{i}", nn.Conv2d(width, unique, 3, padding=1, bias=False))
            self.add_module(f"basis_bn{i}", nn.BatchNorm2d(rank))
            self.add_module(f"coeff_conv{i}", nn.Conv2d(rank, width, 1, bias=False))
            self.add_module(f"bn{i}", nn.BatchNorm2d(width))
        self.shortcut = nn.Sequential()

    def forward(self, x: Tensor) -> Tensor:
        out = x
        for i in (1, 2):
            get = self.get_submodule
            both = torch.cat([get(f"basis_conv{i}")(out), get(self.shared[i - 1])(out)], 1)
            out = get(f"bn{i}")(get(f"coeff_conv{i}")(get(f"basis_bn{i}")(both)))
            out = out.relu() if i == 1 else (out + x).relu()
        return out


def basis_network(lean: nn.Module, shared: int, unique: int, bases: int) -> nn.Module:
    """The CIFAR network with the release's blocks behind the first of each stage, bases at the root too."""
    network = lc.create_model("resnet20", shortcut="A")
    for stage in range(3):
        width = 16 * 2**stage
        banks = [nn.Conv2d(width, shared * 2**stage, 3, padding=1, bias=False) for _ in range(bases)]
        for i, bank in enumerate(banks):
            network.add_module(f"shared_basis_{stage + 1}" + (f"_{i + 1}" if bases == 2 else ""), bank)
        layer = network.get_submodule(f"layer{stage + 1}")
        for index in range(1, len(layer)):
            layer[index] = BasisBlock(width, unique * 2**stage, banks)
    return network


def ready(network: nn.Module) -> nn.Module:
    torch.manual_seed(1)
    unsettle_(network)
    return network.eval()


def converted(method: lc.Method, name: str = "resnet20", **rules: object) -> nn.Module:
    torch.manual_seed(0)
    dense = lc.create_model(name, **({"shortcut": "A"} if isinstance(method, lc.SharedBasis) else {}))
    return lc.convert(dense, lc.plan(dense, method, **rules)).eval()


@pytest.mark.parametrize("bases", [1, 2])
def test_filter_bases(bases: int, tmp_path: Path):
    lean = converted(lc.SharedBasis(4, 1, bases=bases), where="layer*.conv?", exclude="layer*.0.*")
    release = ready(basis_network(lean, 4, 1, bases))
    torch.save({"net": release.state_dict(), "acc": 93.1, "epoch": 3}, tmp_path / "net.pth")
    loaded = lc.load_checkpoint(lean, tmp_path / "net.pth")
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(loaded(x), release(x), rtol=1e-4, atol=1e-5)
    lc.save(loaded, tmp_path / "lean")
    torch.testing.assert_close(lc.load(tmp_path / "lean")(x), release(x), rtol=1e-4, atol=1e-5)


def test_spconv(tmp_path: Path):
    lean = converted(lc.Split(), exclude=["conv1", "*shortcut*"])
    release = lc.create_model("resnet20")
    for name, module in lean.named_modules():
        if isinstance(module, lc.SplitConv2d):
            made = SPConv(module.out_channels, module.stride[0])
            if module.in_channels != module.out_channels:
                half = module.in_channels // 2
                made.half = half
                made.gwc = nn.Conv2d(half, module.out_channels, 3, 2, 1, groups=2, bias=False)
                made.pwc = nn.Conv2d(half, module.out_channels, 1, bias=False)
                made.conv1x1 = nn.Conv2d(half, module.out_channels, 1)
            release.set_submodule(name, made)
    ready(release)
    state = {f"module.{name}": tensor for name, tensor in release.state_dict().items()}
    state = {name: t for name, t in state.items() if not name.endswith("num_batches_tracked")}  # as old as the release
    state = {name.replace("module.fc.", "module.linear."): t for name, t in state.items()}
    torch.save({"state_dict": state}, tmp_path / "net.pth")
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(lc.load_checkpoint(lean, tmp_path / "net.pth")(x), release(x), rtol=1e-4, atol=1e-5)


def test_tied_blocks_and_attention(tmp_path: Path):
    release = ready(nn.Sequential(Tied(8, 16, 2), nn.ReLU(), SquaredSE(16, 2, 2)))
    dense = nn.Sequential(nn.Conv2d(8, 16, 3, padding=1, bias=False), nn.ReLU(), lc.TiedSE(16, 2, blocks=2))
    lean = lc.convert(dense, lc.plan(dense, lc.TiedBlock(2))).eval()
    save_file(release.state_dict(), tmp_path / "net.safetensors")
    x = torch.randn(2, 8, 5, 5)
    torch.testing.assert_close(lc.load_checkpoint(lean, tmp_path / "net.safetensors")(x), release(x))


def test_whole_convolutions_that_are_shared(tmp_path: Path):
    """ResNet50-Shared: the 3x3 of a stage's blocks stands at the root and in each block, and downsample is shortcut."""
    lean = lc.create_model("basis_resnet101_shared", num_classes=3).eval()
    torch.manual_seed(2)
    unsettle_(lean)
    state = {}
    for name, tensor in lean.state_dict().items():
        if ".bank." not in name:
            state[name.replace("downsample.", "shortcut.")] = tensor
    for name, module in lean.named_modules():
        if isinstance(module, lc.DepthSharedConv2d):
            block = name.rpartition(".")[0]
            state[f"{block}.shared_basis_1.weight"] = module.weight.detach().clone()
            state[f"shared_basis_{block[5]}_1.weight"] = module.weight.detach().clone()
    torch.save(state, tmp_path / "net.pth")
    again = lc.create_model("basis_resnet101_shared", num_classes=3).eval()
    x = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(lc.load_checkpoint(again, tmp_path / "net.pth")(x), lean(x))


class Hostile:
    def __reduce__(self):
        return (Path.touch, (Path("hostile"),))


def test_what_does_not_fit_is_said_and_nothing_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    lean = converted(lc.SharedBasis(4, 1), where="layer*.conv?", exclude="layer*.0.*")
    before = {name: tensor.clone() for name, tensor in lean.state_dict().items()}
    good = ready(basis_network(lean, 4, 1, 1)).state_dict()

    def refused(state: object, match: str) -> None:
        torch.save(state, "net.pth")
        with pytest.raises(FileError, match=match):
            lc.load_checkpoint(lean, "net.pth")
        assert all(torch.equal(tensor, before[name]) for name, tensor in lean.state_dict().items())

    refused({k: v for k, v in good.items() if k != "layer2.1.coeff_conv2.weight"}, "nothing for 'layer2.1.conv2.coeff")
    refused(good | {"head.weight": torch.zeros(3)}, "does not take, 'head.weight'; build the network")
    refused(good | {"fc.weight": torch.zeros(5, 64)}, r"'fc.weight' has shape \(5, 64\) and not \(10, 64\)")
    refused(ready(basis_network(lean, 8, 1, 1)).state_dict(), "filters; this network's bases have another number")
    cut = good | {"layer1.2.shared_basis.weight": good["layer1.2.shared_basis.weight"] + 1}
    refused(cut, "'layer1.2.shared_basis.weight' is not shared as in this network")
    refused(ready(basis_network(lean, 4, 1, 2)).state_dict(), "is not shared as in this network")
    refused({"a": good, "b": good}, "holds 2 state dicts and not one")
    refused({"net": Hostile()}, "cannot be read without running its code")
    assert not Path("hostile").exists()
    Path("net.safetensors").write_bytes(b"no")
    for name, match in (("net.safetensors", "cannot be read"), ("none.pth", "no file")):
        with pytest.raises(FileError, match=match):
            lc.load_checkpoint(lean, name)


def test_groups_of_tied_blocks_are_refused(tmp_path: Path):
    dense = nn.Sequential(nn.Conv2d(8, 8, 3, groups=2, bias=False))
    lean = lc.convert(dense, lc.plan(dense, lc.TiedBlock(2)))
    torch.save({"0.conv.weight": torch.zeros(4, 2, 3, 3), "x": torch.zeros(1)}, tmp_path / "net.pth")
    with pytest.raises(FileError, match="orders its channels by block first"):
        lc.load_checkpoint(lean, tmp_path / "net.pth")


def test_a_dense_checkpoint_becomes_lean_by_a_fit(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Never by loading what happens to have the same name: into the lean network itself it is refused."""
    torch.manual_seed(3)
    dense = unsettled("timm/resnet18")
    torch.save(dense.state_dict(), tmp_path / "dense.pth")
    method = [
        "--method",
        "shared_basis(shared=28,unique=28,norm=False)",
        "--where",
        "layer1*.conv?",
        "-o",
        str(tmp_path / "lean"),
    ]
    with pytest.raises(SystemExit) as end:
        main(
            [
                "convert",
                "timm/resnet18",
                "--weights",
                str(tmp_path / "dense.pth"),
                *method,
                "-o",
                str(tmp_path / "lean"),
            ]
        )
    assert end.value.code == 0
    lean = lc.load(tmp_path / "lean")
    fitted = lc.convert(dense, lc.plan_of(lean), init="fit").eval()
    x = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(lean(x), fitted(x), rtol=1e-4, atol=1e-4)
    off = (lean(x) - dense(x)).norm() / dense(x).norm()
    fresh = lc.convert(dense, lc.plan_of(lean), init="fresh").eval()
    assert off < 0.8 * (fresh(x) - dense(x)).norm() / dense(x).norm()
    with pytest.raises(FileError, match=r"has nothing for 'layer1\.0\.conv1"):
        lc.load_checkpoint(lean, tmp_path / "dense.pth")


def unsettled(name: str) -> nn.Module:
    model = lc.create_model(name)
    unsettle_(model)
    return model.eval()


def test_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    lean = converted(lc.SharedBasis(4, 1), where="layer*.conv?", exclude="layer*.0.*")
    release = ready(basis_network(lean, 4, 1, 1))
    torch.save(release.state_dict(), tmp_path / "net.pth")
    method = ["--method", "shared_basis(shared=4)", "--where", "layer*.conv?", "--exclude", "layer*.0.*"]
    target = ["convert-checkpoint", str(tmp_path / "net.pth"), "resnet20(shortcut='A')"]
    with pytest.raises(SystemExit) as end:
        main([*target, *method, "-o", str(tmp_path / "lean")])
    assert end.value.code == 0 and "every tensor found its place" in capsys.readouterr().out
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(lc.load(tmp_path / "lean")(x), release(x), rtol=1e-4, atol=1e-5)
    with pytest.raises(SystemExit) as end:
        main([*target, "-o", str(tmp_path / "dense")])
    assert end.value.code == 2 and not (tmp_path / "dense").exists()
    assert "net.pth has nothing for 'layer1.1.conv1.weight'" in capsys.readouterr().err
