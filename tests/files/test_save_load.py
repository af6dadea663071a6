from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

import leanconv as lc
from leanconv.core.atomic import replacing
from leanconv.core.errors import FileError
from leanconv.core.notes import get_base
from leanconv.files.save import FORMAT, METADATA_KEY, MODEL_FILE


def lean_resnet(method=None):
    torch.manual_seed(0)
    model = lc.create_model("resnet8")
    return lc.convert(model, lc.plan(model, method or lc.SharedBasis(), exclude="conv1")).eval()


def outputs(model):
    torch.manual_seed(1)
    return model(torch.randn(2, 3, 32, 32))


METHODS = [lc.TiedBlock(), lc.SharedBasis(bases=2), lc.DepthShared(blend=True), lc.Split()]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_a_fresh_process_computes_the_same(method, tmp_path):
    torch.manual_seed(0)
    model = lc.create_model("resnet20")
    lean = lc.convert(model, lc.plan(model, method, exclude="conv1")).eval()
    lc.save(lean, tmp_path)
    assert len(load_file(tmp_path / MODEL_FILE)) == len(lean.state_dict())
    size = (tmp_path / MODEL_FILE).stat().st_size
    assert size < lc.count(lean).bytes + 50_000  # names and the plan, no weight twice
    x = torch.randn(2, 3, 32, 32)
    torch.save(x, tmp_path / "x.pt")
    code = (
        "import sys, torch, leanconv as lc; d = sys.argv[1]; m = lc.load(d); "
        "torch.save(m(torch.load(d + '/x.pt', weights_only=True)).detach(), d + '/y.pt')"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    torch.testing.assert_close(torch.load(tmp_path / "y.pt", weights_only=True), lean(x), rtol=1e-5, atol=1e-5)


def test_a_dense_network_and_a_users_own_ties_come_back(tmp_path):
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.head = nn.Linear(4, 4), nn.Linear(4, 4)
            self.head.weight = self.embed.weight
            self.conv = nn.Conv2d(4, 4, 3, padding=1)

        def forward(self, x):
            return self.head(self.embed(self.conv(x).mean((2, 3))))

    own = Own()
    lean = lc.convert(own, lc.plan(own, lc.TiedBlock()))
    lc.save(lean, tmp_path)
    assert "head.weight" not in load_file(tmp_path / MODEL_FILE)
    loaded = lc.load(tmp_path, model=Own())
    assert loaded.head.weight is loaded.embed.weight
    x = torch.randn(2, 4, 6, 6)
    assert torch.equal(loaded(x), lean(x))
    with pytest.raises(FileError, match="does not say how to build its network"):
        lc.load(tmp_path)
    dense = lc.create_model("resnet8", num_classes=7)
    lc.save(dense, tmp_path / "dense")
    assert lc.plan_of(lc.load(tmp_path / "dense")) is None


def test_precision_comes_back_tensor_by_tensor(tmp_path):
    lean = lean_resnet().half()
    for module in lean.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.float()
    lc.save(lean, tmp_path)
    dtypes = {name: tensor.dtype for name, tensor in lean.state_dict().items()}
    assert {name: tensor.dtype for name, tensor in lc.load(tmp_path).state_dict().items()} == dtypes


def test_the_plan_file_is_a_readable_copy_and_not_needed(tmp_path):
    lean = lean_resnet()
    lc.save(lean, tmp_path)
    info = json.loads((tmp_path / "plan.json").read_text())
    assert info["base"] == {"name": "resnet8", "kwargs": {}}
    assert lc.Plan.from_json(info["plan"]) == lc.plan_of(lean)
    (tmp_path / "plan.json").unlink()
    torch.testing.assert_close(outputs(lc.load(tmp_path)), outputs(lean))


def test_a_file_of_before_a_setting_was_renamed_still_loads(tmp_path):
    model = lc.create_model("basis_mobilenetv2", num_classes=3, places="expand")
    lc.save(model, tmp_path)
    with safe_open(tmp_path / MODEL_FILE, "pt") as file:
        info = json.loads(file.metadata()[METADATA_KEY])
    info["base"]["kwargs"]["form"] = info["base"]["kwargs"].pop("places")
    save_file(load_file(tmp_path / MODEL_FILE), tmp_path / MODEL_FILE, metadata={METADATA_KEY: json.dumps(info)})
    again = lc.load(tmp_path)
    assert get_base(again) == get_base(model) and lc.plan_of(again) == lc.plan_of(model)
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(again(x), model.eval()(x))


def test_a_lean_network_with_a_cut_tie_is_not_saved(tmp_path):
    lean = lean_resnet(lc.DepthShared())
    user = next(m for m in lean.modules() if isinstance(m, lc.DepthSharedConv2d) and "bank" in vars(m))
    import copy

    bank = vars(user).pop("bank")
    user.add_module("bank", copy.deepcopy(bank))
    with pytest.raises(lc.LeanconvError, match="a tie was cut"):
        lc.save(lean, tmp_path)
    assert not (tmp_path / MODEL_FILE).exists()


def rewrite(path, change=lambda tensors, info: None):
    tensors = load_file(path)
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        info = json.loads(file.metadata()[METADATA_KEY])
    change(tensors, info)
    save_file(tensors, path, metadata={METADATA_KEY: json.dumps(info)})


def test_an_older_format_loads(tmp_path):
    """Format 1 had no task."""
    lean = lean_resnet()
    lc.set_task(lean, lc.Task((0.5,) * 3, (0.2,) * 3, (32, 32), tuple("abcdefghij")))
    lc.save(lean, tmp_path)
    assert lc.get_task(lc.load(tmp_path)) == lc.get_task(lean)
    rewrite(tmp_path / MODEL_FILE, lambda tensors, info: (info.update(version=1), info.pop("task")))
    older = lc.load(tmp_path)
    assert lc.get_task(older) is None
    assert torch.equal(outputs(older), outputs(lean))
    lc.save(older, tmp_path)
    assert json.loads((tmp_path / "plan.json").read_text())["version"] == FORMAT


SPOIL = {
    "a missing tensor": (lambda t, i: t.pop("fc.weight"), "lacks 'fc.weight'; it belongs to another network"),
    "an extra tensor": (lambda t, i: t.update(other=torch.ones(1)), "has unknown 'other'"),
    "a wrong shape": (
        lambda t, i: t.update({"fc.bias": torch.ones(3)}),
        r"'fc.bias' has shape \(3,\) where .* \(10,\)",
    ),
    "a newer format": (lambda t, i: i.update(version=99), "format 99; this leanconv reads up to 4"),
    "a task of another kind": (lambda t, i: i.update(task={"mean": 3}), "must hold mean, std, image_size and classes"),
    "no version": (lambda t, i: i.pop("version"), "metadata cannot be read"),
    "an unknown network": (lambda t, i: i["base"].update(name="nope"), "unknown network 'nope'"),
    "an unknown setting": (lambda t, i: i["base"]["kwargs"].update(depth=3), "depth is not a setting"),
    "a request to fetch": (lambda t, i: i["base"]["kwargs"].update(pretrained=True), "asks for pretrained"),
    "a request to read": (
        lambda t, i: i.update(base={"name": "timm/resnet18", "kwargs": {"checkpoint_path": "other.bin"}}),
        "asks for checkpoint_path",
    ),
    "an unknown method": (
        lambda t, i: i["plan"]["groups"][0].update(method="prune"),
        "'prune' is not known here; install",
    ),
    "an empty group": (lambda t, i: i["plan"]["groups"][0].update(sites=[]), "holds no convolution"),
    "a site named twice": (lambda t, i: i["plan"]["groups"].append(i["plan"]["groups"][0]), "names 'layer1.* twice"),
    "a stage that is no number": (
        lambda t, i: i["plan"]["groups"][0]["sites"][0].update(stage="one"),
        "stage='one' is no whole number",
    ),
    "ties that are no names": (lambda t, i: i.update(ties=["fc.weight"]), "not names to names"),
    "a plan for another network": (
        lambda t, i: i["plan"]["groups"][0]["sites"][0]["conv"].update(in_channels=32),
        "the plan was made for another model",
    ),
}


@pytest.mark.parametrize("what", SPOIL)
def test_a_spoilt_file_is_one_clear_error(what, tmp_path):
    change, message = SPOIL[what]
    lc.save(lean_resnet(), tmp_path)
    rewrite(tmp_path / MODEL_FILE, change)
    with pytest.raises(FileError, match=message) as error:
        lc.load(tmp_path)
    assert "\n" not in str(error.value)


def test_truncated_foreign_and_missing_files_are_one_clear_error(tmp_path):
    lc.save(lean_resnet(), tmp_path)
    path = tmp_path / MODEL_FILE
    whole = path.read_bytes()
    for cut in (0, 4, 100, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(FileError, match="not a whole safetensors file"):
            lc.load(tmp_path)
    save_file({"a": torch.ones(1)}, path)
    with pytest.raises(FileError, match="was not saved by leanconv"):
        lc.load(tmp_path)
    with pytest.raises(FileError, match=r"no model.safetensors in"):
        lc.load(tmp_path / "nowhere")


def test_an_interrupted_save_leaves_the_old_file(tmp_path, monkeypatch):
    old = lean_resnet()
    lc.save(old, tmp_path)

    def fail(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr("leanconv.files.save.save_file", fail)
    with pytest.raises(OSError, match="disk full"):
        lc.save(lean_resnet(lc.TiedBlock()), tmp_path)
    torch.testing.assert_close(outputs(lc.load(tmp_path)), outputs(old))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.safetensors", "plan.json"]


def test_replacing_is_all_or_nothing(tmp_path):
    target = tmp_path / "file"
    target.write_text("old")
    with pytest.raises(KeyboardInterrupt), replacing(target) as temporary:  # noqa: PT012  the block is interrupted
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert target.read_text() == "old" and list(tmp_path.iterdir()) == [target]
    with replacing(target) as temporary:
        temporary.write_text("new")
    assert target.read_text() == "new"


def test_a_papers_network_is_built_lean_and_loads_as_it_is(tmp_path):
    torch.manual_seed(0)
    lean = lc.create_model("spconv_resnet20", width=8, ratio=0.25).eval()
    assert lc.plan_of(lean) is not None
    lc.save(lean, tmp_path)
    torch.testing.assert_close(outputs(lc.load(tmp_path)), outputs(lean))
    dense = lc.create_model("resnet20", width=8)
    again = lc.load(tmp_path, model=dense)  # the same file over the dense network: its plan says what to make of it
    torch.testing.assert_close(outputs(again), outputs(lean))


def test_a_network_that_asks_for_the_versions_of_its_layers_loads(tmp_path):
    """torchvision's MNASNet refuses a state dict without them, and a file of tensors has none."""
    model = lc.convert(lc.create_model("torchvision/mnasnet0_5"), lc.TiedBlock(2), where="layers.8.*")
    lc.save(model, tmp_path)
    x = torch.randn(1, 3, 32, 32)
    back = lc.load(tmp_path)
    assert torch.equal(back(x), model.eval()(x))
    dense = lc.create_model("torchvision/mnasnet0_5").eval()
    save_file(dense.state_dict(), tmp_path / "plain.safetensors")
    filled = lc.load_checkpoint(lc.create_model("torchvision/mnasnet0_5"), tmp_path / "plain.safetensors").eval()
    assert torch.equal(filled(x), dense(x))
