"""The figures in the sentences of docs/speed.md and its results, and in the table of targets, are those of the committed rows."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from tests.gates import tree

PAGES = ("speed.md", "results/speed-resnet50.md", "results/speed-others.md")
FIRST, *MORE = ((tree.ROOT / "docs" / page).read_text(encoding="utf-8") for page in PAGES)
TEXT = "\n".join([FIRST, *MORE])


def rows(name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((tree.RESULTS / f"{name}-2026-11-21.json").read_text())["rows"]
    return found


def best(network: str, file: str = "latency-resnet50-openvino") -> str:
    return f"{next(row['ratio'] for row in rows(file) if row['network'] == network and row['best']):.2f}"


def both(network: str) -> str:
    return f"{best(network)}; {best(network, 'latency-resnet50-openvino-batch16')}"


def layers(family: str, batch: int, least: int = 0, scale: float = 1.0) -> str:
    """Geometric mean over the shapes with at least so many output channels."""
    own = [
        row["ratio"]
        for row in rows("layers-resnet50-packed")
        if row["family"] == family and row["batch"] == batch and int(row["shape"].split("->")[1].split()[0]) >= least
    ]
    return f"{scale * math.exp(sum(map(math.log, own)) / len(own)):.2f}"


def of_macs(family: str) -> str:
    own = [row for row in rows("layers-resnet50-packed") if row["family"] == family and row["batch"] == 1]
    return f"{math.exp(sum(math.log(row['ratio'] / row['macs_ratio']) for row in own) / len(own)):.2f}"


def images_per_s(method: str) -> str:
    return f"{next(row['images_per_s'] for row in rows('steps-resnet20-rows') if row['method'] == method):.0f}"


REACHED = {
    "TiedResNet50-S at most 0.70; 0.72 at batch 16": lambda: both("TiedResNet50-S"),
    "TiedResNet50-S with base width 16 at most 0.62": lambda: best("TiedResNet50-S, base width 16"),
    "SPConv-ResNet50 at most 0.77; 0.77 at batch 16": lambda: both("SPConv-ResNet50"),
    "ResNet34-S32U1 at most 0.72 at batch 32": lambda: best("ResNet34-S32U1", "latency-resnet34_cifar-openvino"),
    "TiedSE-ResNet50 not slower": lambda: best("TiedSE-ResNet50", "latency-se_resnet50-openvino"),
    "Tied ResNet-50, B = 2": lambda: both("ResNet-50, tied B = 2"),
    "against Torch-Pruning's at the same MACs": lambda: both("ResNet-50 pruned to ResNet-50, tied B = 2"),
    "tied 3x3, B = 2, at most 1.12 / B; batch 32": lambda: (
        " / B; ".join(layers("tied 3x3, B = 2", batch, 64, 2) for batch in (1, 32)) + " / B"
    ),
    "B = 4": lambda: " / B; ".join(layers("tied 3x3, B = 4", batch, 128, 4) for batch in (1, 32)) + " / B",
    "B = 8": lambda: " / B; ".join(layers("tied 3x3, B = 8", batch, 256, 8) for batch in (1, 32)) + " / B",
    "tied 1x1, B = 2, 4, 8, at most 1.4 / B": lambda: (
        ", ".join(layers(f"tied 1x1, B = {blocks}", 1, 0, blocks) for blocks in (2, 4, 8)) + " / B"
    ),
    "split 3x3 at most 0.55; 0.68 at batch 32": lambda: "; ".join(
        layers("split 3x3, ratio 1/2", batch) for batch in (1, 32)
    ),
    "basis at most 1.25 of its MACs, S32; S16": lambda: "; ".join(
        of_macs(f"basis 3x3, {name}") for name in ("S32", "S16")
    ),
    "split trains ResNet-20 at 900 images/s": lambda: images_per_s("split(ratio=0.5)"),
}


@pytest.mark.parametrize("target", REACHED)
def test_the_table_of_targets(target: str):
    assert f"| {target} | {REACHED[target]()} |" in TEXT


def test_the_page_says_the_findings_first():
    """Five findings before the first table, with the figures of the rows."""
    findings = " ".join(FIRST[: FIRST.index("## The evidence")].split())
    assert findings.count("- **") == 5 and "|" not in findings
    found = json.loads((tree.RESULTS / "rivals-quiet-openvino-2026-11-27.json").read_text())["rows"]
    known = {(row["network"], row["batch"]): f"{row['ratio']:.2f}" for row in found if row["best"]}

    def of(network: str, batch: int = 1) -> str:
        return known[network, batch]

    tied, pruned = "ResNet-50, tied B = 2", "ResNet-50, pruned to 0.51"
    for said in (
        f"MobileNetV4-conv-medium takes {of('MobileNetV4-conv-medium')} of the time, and RepViT-M1.1 {of('RepViT-M1.1')}",
        f"take {of(tied)} of the time for one image and {of(tied, 16)} for sixteen",
        f"the same MACs takes {of(pruned)} and {of(pruned, 16)}.",
        f"TiedResNet50-S takes {of('TiedResNet50-S')} of the time",
        f"SPConv-ResNet50 {of('SPConv-ResNet50')} with",
    ):
        assert said in findings, said
    parts = json.loads((tree.RESULTS / "chunks-resnet50-openvino-2026-11-27.json").read_text())["rows"]
    of_four = {row["network"]: row["latency_ms"] for row in parts if row["images_a_call"] == 4}
    four = [f"{of_four[name] / of_four['ResNet-50']:.2f}" for name in (tied, pruned)]
    assert f"they take {four[0]} and {four[1]}." in findings
    modern = ("MobileNetV4-conv-medium", "ConvNeXt-tiny")
    lean = [
        float(row["latency_ms"]) / dense["latency_ms"]
        for row in found
        for dense in found
        if row["best"] and dense["best"] and row["batch"] == dense["batch"] and dense["network"] in modern
        and row["network"].startswith(f"{dense['network']}, ")
    ]  # fmt: skip
    assert len(lean) == 8 and f"take {min(lean):.2f} to {max(lean):.2f} of their own time" in findings
    saved = 1 - float(of("TiedResNet50-S, aligned")) / float(of("TiedResNet50-S"))
    assert abs(saved - 1 / 6) < 0.02
    growth = {
        row["method"]: f"{row['ratio']:.2f}"
        for row in rows("growth-resnet_cifar")
        if (row["axis"], row["value"]) == ("width", 8)
    }
    assert f"take {growth['split(ratio=0.5)']} and {growth['shared_basis(shared=8)']} of the dense time" in findings


def test_runtimes_take_half_of_eager():
    found: dict[str, dict[str, float]] = {}
    for row in rows("latency-resnet50-runtimes"):
        times = found.setdefault(row["network"], {})
        times[row["runtime"]] = min(row["latency_ms"], times.get(row["runtime"], math.inf))
    assert all(
        0.35 < times[name] / times["eager"] < 0.55 for times in found.values() for name in ("openvino", "onnxruntime")
    )


def test_training_is_not_slower_than_dense_but_for_split():
    slower = {row["family"] for row in rows("layers-resnet50-training") if row["ratio"] > 1.03}
    assert slower == {"split 3x3, ratio 1/2"}


@pytest.mark.parametrize("method", ["tied_block(blocks=2)", "split(ratio=0.5)", "shared_basis(shared=8)"])
def test_what_is_said_of_growth(method: str):
    found = {
        row["value"]: f"{row['ratio']:.2f}"
        for row in rows("growth-resnet_cifar")
        if (row["axis"], row["method"]) == ("width", method)
    }
    said = " ".join(TEXT[TEXT.index("Width decides whether") :].split())
    assert found[8] in said and found[128] in said


def test_predictions_are_within_20_percent():
    assert max(abs(row["predicted_off"]) for row in rows("prediction-networks")) < 0.2


def test_what_is_said_of_the_profile():
    found = {(row["network"], row["precision"], row["layer"]): row for row in rows("profile-resnet50-openvino")}

    def total(network: str, precision: str) -> float:
        row = found[network, precision, "Convolution"]
        return float(row["layer_ms"] / row["share"])

    ratios = [total("TiedResNet50-S", kind) / total("ResNet-50", kind) for kind in ("float32", "bfloat16")]
    said = " ".join(TEXT.split())
    assert f"take {ratios[0]:.2f} of ResNet-50's time in float32 and {ratios[1]:.2f} in bfloat16" in said
    grouped = found["TiedResNet50-S", "float32", "GroupConvolution"]
    assert f"0.35 of its MACs and {grouped['share']:.2f} of its time" in said
    rates = {  # GFLOP/s, with the MACs that torch counts for these layers
        "grouped ones run at 320": 2 * 0.9023e-6 / grouped["layer_ms"] * 1e9,
        "dense ones at 405": 2 * 1.6455e-6 / found["TiedResNet50-S", "float32", "Convolution"]["layer_ms"] * 1e9,
        "ResNet-50's at 435": 2 * 4.087e-6 / found["ResNet-50", "float32", "Convolution"]["layer_ms"] * 1e9,
    }
    for text, rate in rates.items():
        assert text in said and abs(rate - int(text.split()[-1])) < 3
