"""The hub's mixin against a local folder, and an upload with the network replaced by a folder."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub import HfApi, ModelCard
from torch import nn

import leanconv as lc
from leanconv.core.errors import FileError
from leanconv.files.hub import HubModel, card_text


def lean_network() -> nn.Module:
    torch.manual_seed(0)
    dense = lc.create_model("resnet8", num_classes=3)
    lean = lc.convert(dense, lc.plan(dense, lc.SharedBasis(4), exclude="conv1")).eval()
    lc.set_task(lean, lc.Task((0.5,) * 3, (0.25,) * 3, (32, 32), ("cat", "dog", "frog")))
    return lean


class Pushed:
    def __init__(self, repo_id: str) -> None:
        self.repo_id = repo_id


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in the place of the hub."""
    root = tmp_path / "hub"

    def upload(api: HfApi, *, repo_id: str, folder_path: Path, **settings: object) -> str:
        shutil.copytree(folder_path, root / repo_id)
        return f"commit of {repo_id}"

    monkeypatch.setattr(HfApi, "create_repo", lambda api, repo_id, **settings: Pushed(repo_id))
    monkeypatch.setattr(HfApi, "upload_folder", upload)
    return root


def test_what_is_pushed_comes_back(hub: Path):
    lean = lean_network()
    measured = lc.summary(lean, latency=False)
    assert lc.push_to_hub(lean, "user/net", measured=measured, private=True) == "commit of user/net"
    folder = hub / "user" / "net"
    assert {path.name for path in folder.iterdir()} == {"README.md", "config.json", "model.safetensors", "plan.json"}
    again = lc.from_pretrained(folder)
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(again(x), lean(x)) and not again.training
    assert lc.get_task(again) == lc.get_task(lean)
    basis = {id(m.basis) for m in again.modules() if isinstance(m, lc.SharedBasisConv2d)}
    assert len(basis) < sum(isinstance(m, lc.SharedBasisConv2d) for m in again.modules())
    card = ModelCard.load(folder / "README.md")
    assert card.data.library_name == "leanconv" and "shared_basis" in card.data.tags
    assert f"{lc.count(lean).params:,}" in card.text and str(measured) in card.text
    assert all(f"`{group.method.label()}`" in card.text for group in lc.plan_of(lean).groups)


def test_a_network_of_ones_own(tmp_path: Path):
    def own() -> nn.Module:
        return nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.Flatten())

    dense = own()
    lean = lc.convert(dense, lc.plan(dense, lc.TiedBlock())).eval()
    HubModel(lean).save_pretrained(tmp_path)
    x = torch.randn(2, 4, 6, 6)
    assert torch.equal(lc.from_pretrained(tmp_path, model=own())(x), lean(x))
    assert "model=MyNet()" in card_text(lean)


def test_what_is_not_there_is_said_in_one_line(tmp_path: Path):
    with pytest.raises(FileError, match=r"no model\.safetensors in"):
        lc.from_pretrained(tmp_path)
    with pytest.raises(FileError, match="user/none could not be loaded"):
        lc.from_pretrained("user/none", local_files_only=True, cache_dir=tmp_path)


def test_the_dense_network_stands_beside_in_the_card():
    lean = lean_network()
    text = card_text(lean)
    assert f"| dense | {lc.count(lc.create_model('resnet8', num_classes=3), (3, 32, 32)).params:,} |" in text
    assert "| dense |" not in card_text(lc.create_model("basis_resnet32"))
    assert "3 classes: cat, dog, frog." in text


def test_the_lines_of_the_card_run_and_its_metadata_are_valid(hub: Path) -> None:
    """A reader copies the Python lines; the hub reads the YAML in front."""
    lean = lean_network()
    lc.push_to_hub(lean, "user/net")
    folder = hub / "user" / "net"
    card = ModelCard.load(folder / "README.md")
    meta = card.data.to_dict()
    assert meta["library_name"] == "leanconv" and meta["pipeline_tag"] == "image-classification"
    assert len(meta["tags"]) == len({*meta["tags"]}) and all(tag == tag.lower() for tag in meta["tags"])
    code = card.text.split("```python\n")[1].split("```")[0]
    assert '"user/name"' in code
    names: dict[str, object] = {}
    exec(code.replace("user/name", str(folder)), names)
    x = torch.randn(1, 3, 32, 32)
    assert torch.equal(names["model"](x), lean(x))  # type: ignore[operator]
    for text in ("Input: 3 channels of 32x32 pixels", "| this network |", f"leanconv {lc.__version__}"):
        assert text in card.text
