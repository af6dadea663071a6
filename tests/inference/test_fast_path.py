"""The rules of the fast path, held to what ONNX Runtime and OpenVINO do with a network here."""

from __future__ import annotations

import importlib.util
import json
import platform
from pathlib import Path

import pytest
import torch
from torch import nn

import leanconv as lc
from leanconv.cli import main
from leanconv.core.errors import SettingError
from leanconv.core.spec import ConvSpec
from leanconv.deploy.formats import FORMATS
from leanconv.files.target import open_without_weights
from leanconv.inference.fast_path import RULES, off_fast_path, slow_layers

GROUPED = {"2 groups of 8": (16, 16, 2), "4 of 18": (72, 72, 4), "4 of 32": (128, 128, 4), "16 -> 24": (64, 96, 4)}
DENSE = {"18": (18, 18, 1), "20": (20, 20, 1), "64": (64, 64, 1), "depthwise": (64, 64, 64)}
AVX512 = "avx512f" in (Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else "")


@pytest.mark.skipif(
    not (all(map(importlib.util.find_spec, FORMATS["onnx"].packages)) and AVX512 and platform.machine() == "x86_64"),
    reason="needs ONNX Runtime and AVX-512",
)
@pytest.mark.parametrize("widths", (GROUPED | DENSE).values(), ids=(GROUPED | DENSE).keys())
def test_onnx_runtime_leaves_its_blocked_layout_where_the_rule_says(widths: tuple[int, int, int], tmp_path: Path):
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    inputs, outputs, groups = widths
    layers = [("before", 64, inputs, 1, 1), ("own", inputs, outputs, groups, 3), ("after", outputs, 64, 1, 1)]
    nodes, weights, last = [], [], "x"
    for name, i, o, g, k in layers:
        weights.append(numpy_helper.from_array(torch.randn(o, i // g, k, k).numpy(), f"{name}.w"))
        nodes.append(
            helper.make_node("Conv", [last, f"{name}.w"], [name], name, group=g, kernel_shape=[k, k], pads=[k // 2] * 4)
        )
        last = name
    shape = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 64, 8, 8]) for n in ("x", last)]
    graph = helper.make_graph(nodes, "net", shape[:1], shape[1:], weights)
    file = tmp_path / "net.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), file)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(tmp_path / "optimized.onnx"), 4
    onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    nodes = onnx.load(tmp_path / "optimized.onnx").graph.node
    kernels = [(node, a.ints) for node in nodes for a in node.attribute if a.name == "kernel_shape"]
    (conv,) = [node for node, kernel in kernels if list(kernel) == [3, 3]]
    left = conv.domain != "com.microsoft.nchwc"
    assert left == (off_fast_path(ConvSpec(inputs, outputs, 3, padding=1, groups=groups), "onnxruntime") is not None)


def test_the_rules_name_the_width():
    said = off_fast_path(ConvSpec(72, 72, 3, groups=4), "openvino")
    assert said is not None and "18 of the 32 lanes" in said
    assert "2 channels a group" in str(off_fast_path(ConvSpec(8, 8, 3, groups=4), "eager"))
    assert off_fast_path(ConvSpec(3, 64, 7), "openvino") is None  # the stem fills its outputs
    assert all(off_fast_path(ConvSpec(64, 64, 3, groups=g), name) is None for g in (1, 2, 4, 64) for name in RULES)
    with pytest.raises(SettingError, match="runtime='tvm' must be"):
        off_fast_path(ConvSpec(64, 64, 3), "tvm")


def test_an_operator_counts_with_the_convolutions_of_its_default_form():
    net = nn.Sequential(
        lc.TiedBlockConv2d(64, 64, 3, blocks=8), lc.SplitConv2d(64, 64, 3, padding=1, ratio=0.25)
    ).train()
    assert set(slow_layers(net, "onnxruntime")) == {"0", "1"} and net.training and net[1].training
    assert slow_layers(nn.Sequential(lc.TiedBlockConv2d(64, 64, 3, blocks=4)), "onnxruntime") == {}


def test_fewer_layers_of_an_aligned_network_are_slow():
    printed, aligned = (
        slow_layers(open_without_weights(name), "openvino") for name in ("tied_resnet50_s", "tied_resnet50_s_aligned")
    )
    assert len(aligned) < len(printed)
    assert "18 of the 32 lanes" in " ".join(printed.values()) and "18" not in " ".join(aligned.values())


def test_inspect_marks_the_layers_of_a_plan(capsys: pytest.CaptureFixture[str]):
    arguments = ["inspect", "resnet20", "-m", "tied_block(blocks=8)", "--exclude", "conv1", "--runtime", "onnxruntime"]
    with pytest.raises(SystemExit):
        main(arguments)
    text = capsys.readouterr().out
    assert "20 convolutions are off the fast path of onnxruntime" in text and "2 channels a group" in text
    with pytest.raises(SystemExit):
        main([*arguments, "--align", "16", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert {layer["method"] for layer in found["layers"]} == {"dense", "tied_block(blocks=2)", "tied_block(blocks=4)"}
    assert not any(layer["off_fast_path"] for layer in found["layers"]) and not found["off_fast_path"]["layers"]
    assert any("align=16" in str(layer["kept_because"]) for layer in found["layers"])
