"""Checkpoints under the names of a release, of wrappers and of trainers: where their tensors go, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import leanconv as lc
from leanconv.cli import main
from leanconv.core.errors import FileError
from tests.files import released, released_peers
from tests.ops.contract import unsettle_


def basis_network(shared: int, unique: int, bases: int) -> nn.Module:
    return released.ThreeStages(3, "both", "fc", shared, unique, bases)


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
    release = ready(basis_network(4, 1, bases))
    torch.save({"net": release.state_dict(), "acc": 93.1, "epoch": 3}, tmp_path / "net.pth")
    loaded = lc.load_checkpoint(lean, tmp_path / "net.pth")
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(loaded(x), release(x), rtol=1e-4, atol=1e-5)
    lc.save(loaded, tmp_path / "lean")
    torch.testing.assert_close(lc.load(tmp_path / "lean")(x), release(x), rtol=1e-4, atol=1e-5)


def test_tied_blocks_and_attention(tmp_path: Path):
    release = ready(nn.Sequential(released_peers.TiedConv(8, 16, 2), nn.ReLU(), released_peers.TiedSE(16, 2, 2)))
    dense = nn.Sequential(nn.Conv2d(8, 16, 3, padding=1, bias=False), nn.ReLU(), lc.TiedSE(16, 2, blocks=2))
    lean = lc.convert(dense, lc.plan(dense, lc.TiedBlock(2))).eval()
    save_file(release.state_dict(), tmp_path / "net.safetensors")
    x = torch.randn(2, 8, 5, 5)
    torch.testing.assert_close(lc.load_checkpoint(lean, tmp_path / "net.safetensors")(x), release(x))


class Hostile:
    def __reduce__(self):
        return (Path.touch, (Path("hostile"),))


def test_what_does_not_fit_is_said_and_nothing_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    lean = converted(lc.SharedBasis(4, 1), where="layer*.conv?", exclude="layer*.0.*")
    before = {name: tensor.clone() for name, tensor in lean.state_dict().items()}
    good = ready(basis_network(4, 1, 1)).state_dict()

    def refused(state: object, match: str) -> None:
        torch.save(state, "net.pth")
        with pytest.raises(FileError, match=match):
            lc.load_checkpoint(lean, "net.pth")
        assert all(torch.equal(tensor, before[name]) for name, tensor in lean.state_dict().items())

    refused({k: v for k, v in good.items() if k != "layer2.1.coeff_conv2.weight"}, "nothing for 'layer2.1.conv2.coeff")
    refused(good | {"head.weight": torch.zeros(3)}, "does not take, 'head.weight'; build the network")
    refused(good | {"fc.weight": torch.zeros(5, 64)}, r"'fc.weight' has shape \(5, 64\) and not \(10, 64\)")
    refused(ready(basis_network(8, 1, 1)).state_dict(), "filters; this network's bases have another number")
    cut = good | {"layer1.2.shared_basis.weight": good["layer1.2.shared_basis.weight"] + 1}
    refused(cut, "'layer1.2.shared_basis.weight' not shared as in this network")
    refused(ready(basis_network(4, 1, 2)).state_dict(), "not shared as in this network")
    other = {name: tensor + 1 for name, tensor in good.items()}
    refused({"a": good, "b": other}, "holds several networks that fit: 'a', 'b'; choose one with state='a'")
    refused({"net": Hostile()}, "holds getattr and cannot be read without running its code")
    assert not Path("hostile").exists()
    Path("net.safetensors").write_bytes(b"no")
    for name, match in (("net.safetensors", "cannot be read"), ("none.pth", "no file")):
        with pytest.raises(FileError, match=match):
            lc.load_checkpoint(lean, name)


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
    release = ready(basis_network(4, 1, 1))
    torch.save(release.state_dict(), tmp_path / "net.pth")
    method = ["--method", "shared_basis(shared=4)", "--where", "layer*.conv?", "--exclude", "layer*.0.*"]
    target = ["convert-checkpoint", str(tmp_path / "net.pth"), "resnet20(shortcut='A')"]
    with pytest.raises(SystemExit) as end:
        main([*target, *method, "-o", str(tmp_path / "lean")])
    assert end.value.code == 0 and "every tensor was loaded into" in capsys.readouterr().out
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(lc.load(tmp_path / "lean")(x), release(x), rtol=1e-4, atol=1e-5)
    with pytest.raises(SystemExit) as end:
        main([*target, "-o", str(tmp_path / "dense")])
    assert end.value.code == 2 and not (tmp_path / "dense").exists()
    assert "net.pth has nothing for 'layer1.1.conv1.weight'" in capsys.readouterr().err


def test_what_a_checkpoint_does_not_tell_is_asked_for_on_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    plain, average = (ready(released.ThreeStages(5, "both", "fc")) for _ in range(2))
    average.fc.bias.data += 1
    torch.save({"model": dict(plain.state_dict()), "model_ema": dict(average.state_dict())}, tmp_path / "net.pth")

    def run(target: str, *more: str) -> int:
        with pytest.raises(SystemExit) as end:
            main(["convert-checkpoint", str(tmp_path / "net.pth"), target, "-o", str(tmp_path / "lean"), *more])
        return end.value.code

    assert run("resnet32") == 2
    assert "give shortcut_padding='both' or 'end'" in capsys.readouterr().err
    x = torch.randn(2, 3, 32, 32)
    for target, more, wanted in (
        ("resnet32", ["--shortcut-padding", "both"], plain),
        ("resnet32(shortcut_padding='both')", ["--state", "ema"], average),
    ):
        assert run(target, *more) == 0
        assert "shortcuts pad at 'both'" in capsys.readouterr().out
        torch.testing.assert_close(lc.load(tmp_path / "lean")(x), wanted(x), rtol=1e-4, atol=1e-5)
    assert run("resnet32(num_classes=7)", "--shortcut-padding", "both") == 2
    assert "with fresh_classifier=True" in capsys.readouterr().err
    assert run("resnet32(num_classes=7)", "--shortcut-padding", "both", "--fresh-classifier") == 0
    loaded = lc.load(tmp_path / "lean")
    assert torch.equal(loaded.layer1[0].conv1.weight, plain.layer1[0].conv1.weight) and loaded(x).shape == (2, 7)
