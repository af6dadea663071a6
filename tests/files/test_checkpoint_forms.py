"""Where a checkpoint's tensors stand: behind prefixes, in dicts, beside averages, teachers and optimizers."""

from __future__ import annotations

import argparse
import json
import os
import pickle
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file, save_model
from torch import Tensor, nn

import leanconv as lc
from leanconv.core.errors import FileError, LeanconvError, SettingError
from leanconv.files.weights import Weights

State = dict[str, Tensor]


class Small(nn.Module):
    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        self.a = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4))
        self.fc = nn.Linear(4, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.a(x).relu().mean((2, 3)))


def state(seed: int, classes: int = 4) -> State:
    torch.manual_seed(seed)
    model = Small(classes)
    model.a[1].running_var.uniform_(0.5, 2)
    model.a[1].running_mean.normal_()
    return dict(model.state_dict())


PLAIN, OTHER = state(0), state(1)


def behind(prefix: str, tensors: State) -> State:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def inside(part: str, tensors: State) -> State:
    return {name.replace("a.", f"a.{part}."): tensor for name, tensor in tensors.items()}


def halves(tensors: State) -> State:
    return {name: t.half().float() if t.is_floating_point() else t for name, t in tensors.items()}


def views(tensors: State) -> State:
    store = torch.cat([tensor.flatten().float() for tensor in tensors.values()])
    ends = torch.tensor([tensor.numel() for tensor in tensors.values()]).cumsum(0).tolist()
    return {
        name: store[end - tensor.numel() : end].view(tensor.shape) if tensor.is_floating_point() else tensor
        for (name, tensor), end in zip(tensors.items(), ends, strict=True)
    }


def numpys(tensors: State) -> dict[str, Any]:
    return {name: np.asfortranarray(tensor.numpy()) for name, tensor in tensors.items()}


def optimizer() -> dict[str, Any]:
    model = Small()
    made = torch.optim.Adam(model.parameters())
    model(torch.zeros(1, 3, 4, 4)).sum().backward()
    made.step()
    return made.state_dict()


FORMS: dict[str, Any] = {
    **{prefix: behind(prefix, PLAIN) for prefix in (
        "module.", "_orig_mod.", "model.", "_orig_mod.module.", "module._orig_mod.module.", "net.model.", "student.",
        "a.b.c.d.e.", "module.module.", "_forward_module.model.",
    )},
    **{f"{part} in the middle": inside(part, PLAIN) for part in ("_orig_mod", "module", "_checkpoint_wrapped_module")},
    **{key: {key: PLAIN, "optimizer": optimizer(), "epoch": 3, "args": {"lr": 0.1}} for key in (
        "model", "state_dict", "model_state_dict", "net", "net_state_dict", "params",
    )},
    **{f"{key} beside": {"model": PLAIN, key: OTHER} for key in (
        "model_ema", "state_dict_ema", "ema_state_dict", "ema", "averaged_model", "swa_state_dict",
    )},
    "averages behind a prefix beside": behind("model.", PLAIN) | behind("ema_model.", OTHER),
    "an average alone": {"model_ema": behind("module.", PLAIN) | {"n_averaged": torch.tensor(3)}},
    "Lightning": {"state_dict": behind("model.", PLAIN), "epoch": 1, "pytorch-lightning_version": "2", "loops": {}},
    "operations counted": PLAIN | {"total_ops": torch.zeros(1), "a.0.total_params": torch.zeros(1)},
    "as old as norms without counters": {name: t for name, t in PLAIN.items() if "num_batches" not in name},
    "the classifier under timm's name": {name.replace("fc.", "head.fc."): t for name, t in PLAIN.items()},
    "double precision": {name: t.double() if t.is_floating_point() else t for name, t in PLAIN.items()},
    "views of one storage": views(PLAIN),
    "the run's arguments beside": {"state_dict": PLAIN, "args": argparse.Namespace(model="small", out=Path("runs"))},
    "numpy's numbers beside": {"state_dict": PLAIN, "best_acc": np.float64(3), "seen": np.array(["a", {}], dtype=object)},
    "arrays of numpy": {"params": numpys(PLAIN)},
    "arrays of numpy, big end first": {name: a.astype(a.dtype.newbyteorder(">")) for name, a in numpys(PLAIN).items()},
    "the same twice": {"a": PLAIN, "b": dict(PLAIN)},
    "four dicts deep": {"a": {"b": {"c": {"d": PLAIN}}}},
}  # fmt: skip


def loaded(found: Any, file: Path, **settings: Any) -> State:
    torch.save(found, file)
    return dict(lc.load_checkpoint(Small(), file, **settings).state_dict())


def equal(a: State, b: State) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a if "num_batches" not in name)


@pytest.mark.parametrize("form", FORMS)
def test_the_network_is_found_wherever_it_stands(form: str, tmp_path: Path):
    assert equal(loaded(FORMS[form], tmp_path / "net.pth"), PLAIN)


def test_half_precision_is_read_as_it_is(tmp_path: Path):
    half = {name: t.half() if t.is_floating_point() else t for name, t in PLAIN.items()}
    assert equal(loaded(half, tmp_path / "net.pth"), halves(PLAIN))


@pytest.mark.parametrize("key", ["model_ema", "state_dict_ema", "ema_state_dict", "ema"])
def test_the_average_is_taken_where_it_is_asked_for(key: str, tmp_path: Path):
    found = {"model": PLAIN, key: behind("module.", OTHER) | {"n_averaged": torch.tensor(3)}}
    for word in ("ema", "EMA", key):
        assert equal(loaded(found, tmp_path / "net.pth", state=word), OTHER)


TWO = {
    "in dicts": ({"teacher": OTHER, "student": PLAIN}, "'teacher', 'student'"),
    "behind prefixes": (behind("teacher.", OTHER) | behind("student.", PLAIN), "'student', 'teacher'"),
}


@pytest.mark.parametrize("where", TWO)
def test_of_two_networks_one_is_asked_for(where: str, tmp_path: Path):
    found, names = TWO[where]
    with pytest.raises(FileError, match=f"several networks that fit: {names}; choose one with state="):
        loaded(found, tmp_path / "net.pth")
    assert equal(loaded(found, tmp_path / "net.pth", state="teacher"), OTHER)
    assert equal(loaded(found, tmp_path / "net.pth", state="student"), PLAIN)
    with pytest.raises(FileError, match="holds nothing called 'nobody'; it has 'student', 'teacher'"):
        loaded(found, tmp_path / "net.pth", state="nobody")


def test_tensors_beside_the_network_are_left_only_where_it_is_asked_for_by_name(tmp_path: Path):
    found = {"state_dict": behind("model.", PLAIN) | {"criterion.weight": torch.ones(4)}}
    with pytest.raises(FileError, match=r"does not take, 'criterion\.weight'; .* state='state_dict\.model'"):
        loaded(found, tmp_path / "net.pth")
    assert equal(loaded(found, tmp_path / "net.pth", state="model"), PLAIN)
    with pytest.raises(FileError, match="does not take, 'head"):
        loaded(PLAIN | {"head.0.weight": torch.ones(4)}, tmp_path / "net.pth", state="")


def test_a_part_called_module_is_no_wrapper(tmp_path: Path):
    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = Small()

    for prefix in ("", "module.", "_orig_mod.", "module._orig_mod."):
        torch.save(behind(prefix + "module.", PLAIN), tmp_path / "net.pth")
        model = lc.load_checkpoint(Outer(), tmp_path / "net.pth")
        assert equal(dict(model.module.state_dict()), PLAIN)


def test_a_network_of_one_tensor(tmp_path: Path):
    conv = nn.Conv2d(3, 4, 3, bias=False)
    for found in (conv.state_dict(), {"net": behind("module.", dict(conv.state_dict()))}):
        torch.save(found, tmp_path / "net.pth")
        model = lc.load_checkpoint(nn.Conv2d(3, 4, 3, bias=False), tmp_path / "net.pth")
        assert torch.equal(model.weight, conv.weight)


def test_other_classes_are_said_and_the_classifier_may_stay_fresh(tmp_path: Path):
    other = state(2, classes=7)
    with pytest.raises(FileError, match=r"'fc\.weight' has shape \(7, 4\) and not \(4, 4\); .*fresh_classifier=True"):
        loaded(other, tmp_path / "net.pth")
    for found in (other, {name: t for name, t in other.items() if not name.startswith("fc.")}):
        torch.save({"model": found}, tmp_path / "net.pth")
        model = Small()
        before = model.fc.weight.clone()
        lc.load_checkpoint(model, tmp_path / "net.pth", fresh_classifier=True)
        assert torch.equal(model.fc.weight, before) and torch.equal(model.a[0].weight, other["a.0.weight"])


def test_tensors_that_a_network_has_under_two_names(tmp_path: Path):
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 4)
            self.last.weight = self.first.weight

    tied = Tied()
    save_model(tied, str(tmp_path / "net.safetensors"))  # holds one of the two names
    assert torch.equal(lc.load_checkpoint(Tied(), tmp_path / "net.safetensors").last.weight, tied.first.weight)
    torch.save(dict(tied.state_dict()) | {"last.weight": torch.ones(4, 4)}, tmp_path / "net.pth")
    with pytest.raises(FileError, match=r"different tensors for 'first\.weight' and 'last\.weight', which are one"):
        lc.load_checkpoint(Tied(), tmp_path / "net.pth")


def test_a_safetensors_file_without_leanconvs_metadata(tmp_path: Path):
    save_file(behind("model.", PLAIN), tmp_path / "model.safetensors")
    assert equal(dict(lc.load_checkpoint(Small(), tmp_path / "model.safetensors").state_dict()), PLAIN)


def in_parts(folder: Path, tensors: State) -> Path:
    """The index of two safetensors files that hold the tensors."""
    names = {f"model-0000{part + 1}-of-00002.safetensors": list(tensors)[part::2] for part in (0, 1)}
    for file, held in names.items():
        save_file({name: tensors[name] for name in held}, folder / file)
    index = folder / "model.safetensors.index.json"
    places = {name: file for file, held in names.items() for name in held}
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": places}))
    return index


def test_a_checkpoint_in_several_files_is_read_by_its_index_or_its_folder(tmp_path: Path):
    index = in_parts(tmp_path, behind("model.", PLAIN))
    for path in (index, tmp_path):
        assert equal(dict(lc.load_checkpoint(Small(), path).state_dict()), PLAIN)
    first = tmp_path / "model-00001-of-00002.safetensors"
    with pytest.raises(FileError, match=r"part 1 of 2: give the index of all parts, model\.safetensors\.index\.json$"):
        lc.load_checkpoint(Small(), first)
    before = Weights.open(index).digest
    save_file({"a": torch.ones(1)}, first)
    assert Weights.open(index).digest == Weights.open(tmp_path).digest != before
    with pytest.raises(FileError, match=r"model-00001-of-00002\.safetensors has nothing for 'model\.a"):
        lc.load_checkpoint(Small(), index)
    first.unlink()
    with pytest.raises(FileError, match=r"names model-00001-of-00002\.safetensors, which is not in its folder"):
        lc.load_checkpoint(Small(), tmp_path)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"weight_map": {"a": 1}}', "[" * 10_000, *(json.dumps({"weight_map": {"a": file}}) for file in (
        "../out/net.safetensors", "/etc/hostname", "..", "", "net.safetensors.index.json", "a\0",
    ))],
)  # fmt: skip
def test_an_index_that_is_none_or_leaves_its_folder_is_one_line(text: str, tmp_path: Path):
    file = tmp_path / "net.safetensors.index.json"
    file.write_text(text)
    with pytest.raises(FileError, match=r"^net\.safetensors\.index\.json [^\n]+$"):
        lc.load_checkpoint(Small(), file)


def test_a_folder_without_an_index_asks_for_the_file(tmp_path: Path):
    with pytest.raises(FileError, match="is a folder with 0 indexes of parts"):
        lc.load_checkpoint(Small(), tmp_path)


def test_what_is_no_path_is_a_setting(tmp_path: Path):
    with pytest.raises(SettingError, match=r"^path is a OrderedDict and must be a path.*model\.load_state_dict"):
        lc.load_checkpoint(Small(), Small().state_dict())  # type: ignore[arg-type]
    for call in (lc.load, lambda value: lc.save(Small(), value), lambda value: lc.export(Small(), value)):
        with pytest.raises(SettingError, match="is a int and must be a path, a string or a pathlib"):
            call(3)


def test_a_wrapped_network_is_filled_and_one_on_the_meta_device_refused(tmp_path: Path):
    """PyTorch copies to the meta device without a word, and nothing is there afterwards."""
    torch.save(PLAIN, tmp_path / "net.pth")
    wrapped = nn.DataParallel(Small())
    lc.load_checkpoint(wrapped, tmp_path / "net.pth")
    assert equal(dict(wrapped.module.state_dict()), PLAIN)
    with torch.device("meta"):
        bare = Small()
    with pytest.raises(SettingError, match=r"'a\.0\.weight' is on the meta device"):
        lc.load_checkpoint(bare, tmp_path / "net.pth")
    lc.save(Small(), tmp_path)
    with pytest.raises(LeanconvError, match=r"'a\.0\.weight' is on the meta device"):
        lc.load(tmp_path, model=bare)


def test_tied_blocks_with_groups_take_our_own_names_only(tmp_path: Path):
    dense = nn.Sequential(nn.Conv2d(8, 8, 3, groups=2, bias=False))
    lean = lc.convert(dense, lc.plan(dense, lc.TiedBlock(2)))
    again = lc.convert(dense, lc.plan(dense, lc.TiedBlock(2)))
    torch.save(lean.state_dict(), tmp_path / "own.pth")
    assert torch.equal(lc.load_checkpoint(again, tmp_path / "own.pth")[0].weight, lean[0].weight)
    torch.save({"0.conv.weight": lean[0].weight.detach()}, tmp_path / "release.pth")
    with pytest.raises(FileError, match="orders its channels by block first"):
        lc.load_checkpoint(lean, tmp_path / "release.pth")


METHODS = (
    lc.TiedBlock(2),
    lc.SharedBasis(2, bases=2),
    lc.DepthShared(blend=True),
    lc.Split(),
    lc.SoftShared(),
    lc.Ghost(),
    lc.Lego(),
)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_a_lean_network_takes_its_own_state_dict(method: lc.Method, tmp_path: Path):
    def lean(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        dense = lc.create_model("resnet20", width=8)
        return lc.convert(dense, lc.plan(dense, method, exclude="conv1")).eval()

    first, second = lean(0), lean(1)
    torch.save({"state_dict": behind("module.", dict(first.state_dict()))}, tmp_path / "net.pth")
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(lc.load_checkpoint(second, tmp_path / "net.pth")(x), first(x))


REFUSED: dict[str, Any] = {
    "two tensors for one place": PLAIN | {"linear.weight": torch.zeros(4, 4)},
    "a list": [PLAIN],
    "a tensor": torch.ones(3),
    "numbers for names": {0: torch.ones(3)},
    "nothing": {},
    "the network itself": Small(),
    "whole numbers": PLAIN | {"fc.weight": PLAIN["fc.weight"].char()},
    "complex numbers": PLAIN | {"fc.weight": PLAIN["fc.weight"].to(torch.complex64)},
    "a sparse tensor": PLAIN | {"fc.weight": PLAIN["fc.weight"].to_sparse()},
    "a tensor without memory": PLAIN | {"fc.weight": PLAIN["fc.weight"].to("meta")},
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_no_network_is_one_line(what: str, tmp_path: Path):
    with pytest.raises(FileError, match=r"^net\.pth [^\n]+$"):
        loaded(REFUSED[what], tmp_path / "net.pth")


class Calls:
    """A pickle that calls a function with some arguments."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.pair = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.pair


@pytest.mark.parametrize("call", [Calls(os.mkdir, "made"), Calls(np.save, "made", np.ones(1)), Calls(eval, "1")])
def test_a_file_that_calls_functions_is_refused_beside_arguments_and_arrays(call: Calls, tmp_path: Path):
    found = {"state_dict": numpys(PLAIN), "args": argparse.Namespace(out=call)}
    with pytest.raises(FileError, match=r"^net\.pth holds .* cannot be read without running its code"):
        loaded(found, tmp_path / "net.pth")
    assert not list(Path().glob("made*"))


def test_what_the_caller_lets_torch_read_stays_as_it_was(tmp_path: Path):
    allowed = [np.ndarray, np.dtype, np.dtypes.Float64DType, np._core.multiarray.scalar]
    with torch.serialization.safe_globals(allowed):
        before = set(torch.serialization.get_safe_globals())
        for found in ({"state_dict": PLAIN, "best_acc": np.float64(3)}, numpys(PLAIN)):
            assert equal(loaded(found, tmp_path / "net.pth"), PLAIN)
        assert set(torch.serialization.get_safe_globals()) == before


def test_files_that_are_none_are_one_line_and_quick(tmp_path: Path):
    torch.save(PLAIN, tmp_path / "whole.pth")
    whole = (tmp_path / "whole.pth").read_bytes()
    contents = [
        b"",
        b"hello",
        b"{}",
        pickle.dumps({"a": 1}),
        pickle.dumps(Small),
        b"\x1f\x8b",
        *(whole[:n] for n in (1, 99, -1)),
    ]
    files = [tmp_path / f"{number}.pth" for number in range(len(contents))]
    for file, content in zip(files, contents, strict=True):
        file.write_bytes(content)
    with zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"0" * (100 * 2**20))
    with tarfile.open(tmp_path / "old.pth", "w") as tar:
        tar.add(files[1], "storages")
    os.mkdir(tmp_path / "folder.pth")
    os.mkfifo(tmp_path / "pipe.pth")
    for file in (*files, *(tmp_path / f"{name}.pth" for name in ("bomb", "old", "folder", "pipe", "none"))):
        with pytest.raises(FileError, match=rf"{file.name}\b") as error:
            lc.load_checkpoint(Small(), file)
        assert "\n" not in str(error.value) and "weights_only" not in str(error.value)
