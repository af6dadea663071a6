"""analyse, prune and --report as a user types them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

import leanconv as lc
from leanconv.analyse.kinds import KINDS
from leanconv.analyse.looking import FOLDERS, labels_of
from leanconv.cli import main

SMALL = lc.Task((0.3,), (0.4,), (8, 8), tuple("0123456789"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("nets")
    torch.manual_seed(0)
    dense = lc.create_model("resnet8", in_chans=1)
    basis = lc.convert(dense, lc.plan(dense, lc.SharedBasis(4), where="layer*.conv?"))
    blended = lc.convert(dense, lc.plan(dense, lc.DepthShared(blend=True), where="layer*.conv?"))
    for name, model in {"dense": dense, "basis": basis, "blended": blended}.items():
        lc.set_task(model, SMALL)
        lc.save(model.eval(), root / name)
    return root


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as end:
        main([str(argument) for argument in arguments])
    return int(end.value.code or 0)


TARGET = {"bases": "basis", "blending": "blended", "pruning": "blended"}


@pytest.mark.parametrize("what", [name for name, kind in KINDS.items() if kind.of not in FOLDERS])
def test_every_kind(what: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    target = folder / TARGET.get(what, "dense")
    figure, page = tmp_path / "figure.svg", tmp_path / "page.html"
    settings = ["--what", what, "--data", "digits", "--images", 2, "-o", figure, "--report", page]
    assert run("analyse", target, *settings) == 0
    table = capsys.readouterr().out
    assert target.name in table or "layer" in table
    assert (
        figure.read_text().startswith("<?xml") and "<svg" in page.read_text() and "leanconv analyse" in page.read_text()
    )
    assert run("analyse", target, *settings, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["what"] == what and list(found["networks"]) == [target.name]


def test_several_networks_by_what_differs(folder: Path, capsys: pytest.CaptureFixture[str]):
    assert run("analyse", folder / "dense", folder / "basis", "--what", "weights", "--json") == 0
    assert list(json.loads(capsys.readouterr().out)["networks"]) == ["dense", "basis"]
    assert labels_of(["resnet8", "timm/resnet18"]) == ["resnet8", "timm/resnet18"]


@pytest.mark.parametrize(
    ("targets", "labels"),
    [
        (["a/b", "c/b"], ["a", "c"]),
        (["x/a/b", "x/c/b"], ["a", "c"]),
        (["a/b", "a/b/b"], ["a/b", "a/b/b"]),  # and not a, a/b
        (["a/b", "a/a/b/b"], ["a/b", "a/a/b/b"]),  # and not a/b, a/b
    ],
)
def test_labels_are_distinct_and_no_other_networks_name(
    targets: list[str], labels: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for target in targets:
        (tmp_path / target).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert labels_of(targets) == labels


def test_a_network_by_name_is_built_from_the_seed(capsys: pytest.CaptureFixture[str]):
    def built(*more: object) -> dict[str, object]:
        assert run("analyse", *more, "--what", "weights", "--layer", "conv1", "--json") == 0
        return json.loads(capsys.readouterr().out)["networks"]

    first, again, other = built("resnet8"), built("resnet20", "resnet8"), built("resnet8", "--seed", 1)
    assert first["resnet8"] == again["resnet8"] != other["resnet8"]


def test_mistakes_are_one_line(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(b"no image")
    Image.new("L", (8, 8)).save(tmp_path / "b.png")
    cases = [
        ([folder / "dense", "--what", "cam", "--layer", "layer1.0.conv9", "--data", "digits"], "layer1.0.conv1"),
        ([folder / "dense", "--what", "filters"], "give --data, or --photos"),
        ([folder / "dense", "--what", "cam", "--photos", tmp_path / "photos"], "a.png: no known image format"),
        ([folder / "dense", "--what", "cam", "--photos", tmp_path / "none"], "no file or folder"),
        ([folder / "dense", "--what", "bases"], "has no shared basis"),
        ([folder / "dense", "--what", "blending"], "has no blending layer"),
        ([folder / "dense", "--what", "gradients"], "with --record-gradients"),
        ([folder / "dense", "--what", "weights", "-o", tmp_path / "figure.doc"], "must end in .svg, .png or .pdf"),
        ([folder / "dense", folder / "dense", "--what", "weights"], "given twice"),
        ([folder / "dense", "--what", "cam", "--data", "digits", "--class", "99"], "must be one of 0 to 9"),
        (["resnet8", folder / "dense", "--what", "spectrum"], "shows one network, and 2 are given"),
        (
            [folder / "dense", "--what", "cam", "--layer", "conv1", "--layer", "layer1.0", "--data", "digits"],
            "cam shows one layer, and 2",
        ),
        (
            [folder / "basis", "--what", "bases", "--layer", "x"],
            "--layer (layers) has no effect on bases; leave it out, it",
        ),
        (
            [folder / "dense", "--what", "weights", "--class", "3"],
            "has no effect on weights; leave it out, it is for cam",
        ),
        (
            [folder / "dense", "--what", "weights", "--average", "cosines"],
            "no effect on weights; leave it out, it is for f",
        ),
    ]
    for arguments, message in cases:
        assert run("analyse", *arguments) == 2, message
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1, error


def test_a_network_without_a_convolution(tmp_path: Path):
    with pytest.raises(lc.LeanconvError, match="has no convolution to look at"):
        lc.analyse.conv_layers(torch.nn.Linear(2, 2))


def test_gradients_of_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    common = ["--data", "digits", "--epochs", 1, "--where", "layer*.conv?", "--record-gradients"]
    for name, weight in (("on", 10), ("off", 0)):
        method = f"shared_basis(shared=4,penalty_weight={weight})"
        assert run("train", "resnet8", "--method", method, *common, "--out", tmp_path / name) == 0
        assert "Test top-1" in (tmp_path / name / "report.html").read_text()
    capsys.readouterr()
    assert run("analyse", tmp_path / "on", tmp_path / "off", "--what", "gradients", "-o", tmp_path / "flow.png") == 0
    assert "basis.weight" in capsys.readouterr().out and (tmp_path / "flow.png").exists()


def test_tradeoff(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    methods = "dense,shared_basis(shared=2),shared_basis(shared=4),shared_basis(shared=2,unique=2)"
    assert (
        run(
            "compare",
            "resnet8",
            "--data",
            "digits",
            "--epochs",
            1,
            "--methods",
            methods,
            "--out",
            tmp_path,
        )
        == 0
    )
    capsys.readouterr()
    assert run("analyse", tmp_path, "--what", "tradeoff", "-o", tmp_path / "t.svg", "--json") == 0
    found = json.loads(capsys.readouterr().out)["networks"]
    rows = json.loads((tmp_path / "summary.json").read_text())["rows"]
    assert [point["params"] for point in found["points"]] == [row["params"] for row in rows]
    assert [point["error_pct"] for point in found["points"]] == [
        pytest.approx(100 - row["test_top1_pct"]) for row in rows
    ]
    assert found["reference"] == "dense" and found["points"][0]["factor"] == 1
    lines = [point["line"] for point in found["points"]]
    assert lines[1] == lines[2] != lines[3], "points are joined that differ in what is swept"
    assert run("analyse", tmp_path / "t.svg", "--what", "tradeoff") == 2
    assert "is not a result of leanconv compare" in capsys.readouterr().err


def test_prune(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    target = folder / "blended"
    assert run("prune", target, "--fraction", 0.5, "--data", "digits", "-o", tmp_path / "lean", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    weights = lc.analyse.blending_weights(lc.load(tmp_path / "lean"))
    assert found["blending_weights"] == sum(int((w != 0).sum()) for w in weights.values())
    assert sum(w.numel() for w in weights.values()) == 2 * found["blending_weights"] or found["blending_weights"] < 400
    assert 0 <= found["top1_pct_after"] <= 100


@pytest.mark.parametrize(
    ("criterion", "allocate"),
    [("activation", "uniform"), ("taylor", None), ("reconstruction", None), ("magnitude", None)],
)
def test_prune_channels(
    criterion: str, allocate: str | None, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    target, settings = folder / "dense", ["--macs", 0.7, "--align", 4, "--criterion", criterion, "--images", 8]
    settings += ["--allocate", allocate] if allocate else []
    assert run("prune", target, *settings, "-o", tmp_path / "thin", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["allocate"] == (allocate or ("uniform" if criterion == "magnitude" else "scores"))
    thin = lc.load(tmp_path / "thin")
    assert lc.count(thin).macs == found["macs_after"] <= 0.7 * found["macs_before"]
    assert found["bytes_after"] < found["bytes_before"] and thin.conv1.out_channels % 4 == 0
    assert run("prune", target, "-o", tmp_path / "none") == 2
    assert "give --macs to remove channels, or --fraction" in capsys.readouterr().err


def test_prune_into_the_same_folder_tells_both_sizes(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    target = tmp_path / "net"
    shutil.copytree(folder / "dense", target)
    settings = ["--macs", 0.7, "--align", 4, "--criterion", "magnitude"]
    assert run("prune", target, *settings, "-o", target, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["bytes_before"] == (folder / "dense" / "model.safetensors").stat().st_size > found["bytes_after"]


def test_suggested_ratios(folder: Path, capsys: pytest.CaptureFixture[str]):
    assert run("inspect", folder / "dense", "--ratios", "digits", "--json") == 0
    ratios = json.loads(capsys.readouterr().out)["ratios"]
    assert len(ratios) == 6 and all(0 < one["ratio"] <= 1 for one in ratios)
    assert run("inspect", "resnet8", "--ratios", "digits") == 2
    assert "take a folder, or resnet8 with --pretrained" in capsys.readouterr().err


def test_pages_of_other_verbs(tmp_path: Path):
    assert run("inspect", "resnet8", "--method", "split", "--exclude", "conv1", "--report", tmp_path / "a.html") == 0
    assert "layer3.0.conv2" in (tmp_path / "a.html").read_text()
    assert run("bench", "resnet8", "resnet20", "--seconds", 0.2, "--report", tmp_path / "b.html") == 0
    text = (tmp_path / "b.html").read_text()
    assert "Any two measures" in text and "leanconv bench" in text
    assert run("reproduce", "spconv", "--table", "1", "--report", tmp_path / "c.html") == 0
    assert "equal" in (tmp_path / "c.html").read_text()
