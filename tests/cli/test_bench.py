"""``leanconv bench`` and the times of ``leanconv inspect``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from leanconv.timing import runtimes

SMALL = ("--input-size", "3,16,16", "--threads", "1", "--seconds", "0.1")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_each_network_as_it_is_and_optimized(call: Callable, tmp_path: Path) -> None:
    out = tmp_path / "rows.json"
    answer = call("bench", "resnet8", "--methods", "dense,split", "--batch", "1,2", *SMALL, "-o", out, "--json")
    assert answer.code == 0
    found = json.loads(answer.out)
    assert found == json.loads(out.read_text())
    rows = found["rows"]
    assert [(row["batch"], row["network"], row["form"]) for row in rows] == [
        (batch, network, form)
        for batch in (1, 2)
        for network in ("resnet8", "resnet8 split(ratio=0.5)")
        for form in ("as it is", "optimized")
    ]
    for batch in (1, 2):
        own = [row for row in rows if row["batch"] == batch]
        assert sum(row["best"] for row in own) == 2
        assert any(row["ratio"] == 1 and row["network"] == "resnet8" and row["best"] for row in own)
        assert all(row["latency_ms"] > 0 and row["macs"] > 0 and row["failed"] is None for row in own)
    assert sum(rows[3]["forms"].values()) == 6
    assert found["kind"] == "latency" and found["settings"]["threads"] == 1 and found["machine"]["cpu"]


def test_against_another_network(call: Callable) -> None:
    answer = call("bench", "resnet8", "--against", "shard_resnet_e", "--runtimes", "eager", *SMALL)
    assert answer.code == 0
    lines = answer.out.splitlines()
    first = next(index for index, line in enumerate(lines) if "shard_resnet_e" in line)
    assert first < next(index for index, line in enumerate(lines) if "resnet8" in line)
    assert "1.00 (1.00-1.00)" in answer.out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["resnet8", "--batch", "0"], "--batch '0' must be whole numbers"),
        (["resnet8", "--precision", "fp8"], "precision='fp8' must be 'fp32', 'bf16' or 'fp16'"),
        (["resnet8", "--runtimes", "tensorrt"], "runtime='tensorrt' must be one of eager, compile"),
        (["resnet8", "resnet8"], "resnet8 is given twice"),
        (["resnet8", "timm/resnet18"], "choose one with --input-size"),
        (["basis_resnet32", "--methods", "split"], "basis_resnet32 is lean already"),
    ],
)
def test_mistakes_are_one_line(call: Callable, arguments: list[str], says: str) -> None:
    answer = call("bench", *arguments)
    assert answer.code == 2
    assert says in " ".join(answer.err.split())


def test_what_fails_is_a_row_and_the_others_are_timed(
    call: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network that does not take the size, a method that converts nothing, a folder that is broken."""
    (tmp_path / "broken").mkdir()
    asked = ("--input-size", "3,8,8", "--threads", "1", "--seconds", "0.1", "--json")
    answer = call("bench", "resnet8", "timm/vgg11_bn", tmp_path / "broken", "--methods", "dense,split", *asked)
    assert answer.code == 0
    rows = json.loads(answer.out)["rows"]
    reasons = {row["network"]: row["failed"] for row in rows if row["failed"]}
    assert {row["network"] for row in rows if row["latency_ms"]} >= {"resnet8", "resnet8 split(ratio=0.5)"}
    assert "safetensors" in reasons[str(tmp_path / "broken")]
    assert call("bench", "resnet8", tmp_path / "broken", *asked[:-1]).code == 0
    page = tmp_path / "page.html"
    answer = call("bench", "resnet8", tmp_path / "broken", *asked[:-1], "--report", page)
    assert "failed" in answer.out and "safetensors" in page.read_text()
    from leanconv.timing import runtimes

    monkeypatch.setitem(runtimes.RUNTIMES, "eager", lambda *_: 1 / 0)
    answer = call("bench", "resnet8", *asked)
    assert answer.code == 1 and "division by zero" in answer.out


@pytest.mark.parametrize("runtime", [name for name in runtimes.RUNTIMES if name not in ("eager", "compile")])
def test_other_runtimes_compute_the_same(runtime: str) -> None:
    import torch

    import leanconv as lc

    if not runtimes.available(runtime):
        pytest.skip(f"{runtime} is not installed")
    model = lc.create_model("spconv_resnet20").eval()
    x = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(runtimes.prepare(runtime, model, x, 1)(), model(x), rtol=1e-3, atol=1e-4)


def test_convert_leaves_out_what_is_slower(call: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from leanconv.conversion.apply import plan_of
    from leanconv.files.load import load
    from leanconv.search import LayerTime, faster

    def times(plan, slow: str, **_) -> list[LayerTime]:
        sites = [(site.name, number) for number, group in enumerate(plan.groups) for site in group.sites]
        return [LayerTime(name, number, 1.0, 2.0 if slow in name else 0.5, "branches") for name, number in sites]

    asked = ("convert", "resnet8", "-m", "split", "--exclude", "conv1", "--faster-only", "-o", tmp_path / "out")
    monkeypatch.setattr(faster, "layer_times", lambda plan, **_: times(plan, "layer1"))
    assert call(*asked).code == 0
    reasons = {kept.site.name: kept.reason for kept in plan_of(load(tmp_path / "out")).kept}
    assert "slower lean on this device: 2 ms against 1" in reasons["layer1.0.conv1"]
    assert "layer2.0.conv1" not in reasons
    monkeypatch.setattr(faster, "layer_times", lambda plan, **_: times(plan, "layer"))
    answer = call(*asked)
    assert answer.code == 2 and "every group would be slower" in answer.err


def test_inspect_measures_and_predicts(call: Callable) -> None:
    asked = ("resnet8", "-m", "split", "--exclude", "conv1", "--input-size", "3,16,16", "--threads", "1")
    answer = call("inspect", *asked, "--latency", "--json")
    assert answer.code == 0
    found = json.loads(answer.out)
    timed = [layer for layer in found["layers"] if layer["dense_ms"] is not None]
    assert len(timed) == 6
    assert all(layer["slower"] == (layer["lean_ms"] > layer["dense_ms"]) for layer in timed)
    latency = found["latency"]
    change = sum(layer["lean_ms"] - layer["dense_ms"] for layer in timed)
    assert latency["predicted_ms"] == pytest.approx(latency["dense_ms"] + change)
    slower = {layer["name"] for layer in timed if layer["slower"]}
    without = json.loads(call("inspect", *asked, "--faster-only", "--json").out)  # the same times, remembered
    dense = {layer["name"] for layer in without["layers"] if "slower lean" in (layer["kept_because"] or "")}
    assert dense == slower
    assert call("inspect", "resnet8", "--latency").code == 2


@pytest.mark.skipif(not runtimes.available("openvino"), reason="openvino is not installed")
def test_openvino_in_bfloat16() -> None:
    import torch

    import leanconv as lc
    from leanconv.core.errors import SettingError

    model = lc.create_model("resnet8").eval()
    x = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        expected = model(x)
    found = runtimes.prepare("openvino", model.bfloat16(), x.bfloat16(), 1)()
    torch.testing.assert_close(found, expected, rtol=0.1, atol=0.05 * float(expected.abs().max()))
    with pytest.raises(SettingError, match="on the CPU in float32 or bfloat16 only"):
        runtimes.prepare("openvino", model.half(), x.half(), 1)


def test_the_figure_of_groups(call: Callable, tmp_path: Path) -> None:
    command = ("bench", "--figure", "groups", "--input-size", "32,2,2", "--seconds", "0.1", "--threads", "1")
    command += ("--methods", "tied_block")
    answer = call(*command, "-o", tmp_path / "groups.json", "--json")
    assert answer.code == 0, answer.err
    told = json.loads(answer.out)
    assert {row["groups"] for row in told["rows"]} == {1, 2, 4, 8, 16, 32} and told["kind"] == "group_times"
    assert any(row["form"] == "tied_block, batch" for row in told["rows"]) and told["settings"]["methods"] == [
        "tied_block"
    ]
    assert told == json.loads((tmp_path / "groups.json").read_text())
    assert "give a TARGET, or --figure groups" in call("bench", "resnet8", "--figure", "groups").err
    assert "give a TARGET, or --figure groups" in call("bench").err
    assert "does not use --runtimes" in call("bench", "--figure", "groups", "--runtimes", "all").err
    assert "does not use --where" in call("bench", "--figure", "groups", "--where", "conv*").err
    settings = call("bench", "--figure", "groups", "--methods", "tied_block(blocks=4)")
    assert settings.code == 2 and "give the name alone, tied_block" in settings.err
    assert "takes one --batch" in call(*command, "--batch", "1,2").err
