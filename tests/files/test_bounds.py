"""Files that ask for too much: refused in bounded time and memory, also with a network handed in."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import leanconv as lc
from leanconv.core.errors import FileError, SettingError
from leanconv.core.reading import parse_json, reading
from leanconv.files.save import METADATA_KEY, MODEL_FILE


def own() -> nn.Module:
    return nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1))


def saved(folder: Path, named: bool) -> None:
    torch.manual_seed(0)
    model = lc.create_model("resnet8", width=4) if named else own()
    lc.save(
        lc.convert(model, lc.plan(model, lc.SharedBasis(2), stages={"*": 0}, exclude="conv1" if named else ())), folder
    )


def rewrite(file: Path, change: Callable[[dict[str, Tensor], dict[str, Any]], object]) -> None:
    tensors = load_file(file)
    with safe_open(file, "pt") as opened:
        info = json.loads(opened.metadata()[METADATA_KEY])
    text = change(tensors, info)
    save_file(tensors, file, metadata={METADATA_KEY: text if isinstance(text, str) else json.dumps(info)})


def settings(value: dict[str, Any]) -> Callable[[dict[str, Tensor], dict[str, Any]], object]:
    return lambda tensors, info: info["plan"]["groups"][0]["settings"].update(value)


def of_conv(value: dict[str, Any]) -> Callable[[dict[str, Tensor], dict[str, Any]], object]:
    return lambda tensors, info: info["plan"]["groups"][0]["sites"][0]["conv"].update(value)


BOMBS: dict[str, Callable[[dict[str, Tensor], dict[str, Any]], object]] = {
    "nested lists": lambda t, i: "[" * 100_000,
    "nested objects": lambda t, i: '{"version":' * 50_000 + "1" + "}" * 50_000,
    "nested a little": lambda t, i: i.update(task=json.loads("[" * 200 + "]" * 200)),
    "infinity": lambda t, i: '{"version": Infinity}',
    "a number beyond floats": lambda t, i: '{"version": 1e400}',
    "NaN": lambda t, i: '{"version": 2, "plan": NaN}',
    "a number of 10,000 digits": lambda t, i: '{"version": 2, "plan": ' + "9" * 10_000 + "}",
    "a version that is true": lambda t, i: i.update(version=True),
    "a huge rank": settings({"shared": 900_000}),
    "a rank beyond all": settings({"shared": 10**9}),
    "many bases": settings({"bases": 10**6}),
    "a setting that is infinite": settings({"penalty_weight": 1e308}),
    "channels that nothing has": of_conv({"in_channels": 10**15, "out_channels": 10**15, "groups": 7}),
    "sites by the hundred thousand": lambda t, i: i["plan"]["groups"][0].update(
        sites=[{**i["plan"]["groups"][0]["sites"][0], "name": f"a{n}"} for n in range(20_000)]
    ),
    "a sparse tensor of another size": lambda t, i: (
        t.update({"a.nonzero": torch.zeros(1), "a.mask": torch.zeros(1, dtype=torch.uint8)}),
        i.update(sparse={"a": [10**6, 10**6]}),
    ),
    "a sparse tensor of many sides": lambda t, i: (
        t.update({"a.nonzero": torch.zeros(1), "a.mask": torch.zeros(1, dtype=torch.uint8)}),
        i.update(sparse={"a": [10**9] * 9_000}),
    ),
    "ties in a circle": lambda t, i: i.update(ties={"a": "b", "b": "a"}),
    "a tie over what is stored": lambda t, i: i.update(ties={next(iter(t)): next(reversed(t))}),
    "a weight of 8 bits": lambda t, i: t.update({n: v.to(torch.float8_e4m3fn) for n, v in t.items() if v.ndim == 4}),
    "a weight of whole numbers": lambda t, i: t.update({n: v.long() for n, v in t.items() if v.ndim == 4}),
    "a weight of truth": lambda t, i: t.update({n: v.bool() for n, v in t.items() if v.ndim == 4}),
    "a complex weight": lambda t, i: t.update({n: v.to(torch.complex64) for n, v in t.items() if v.ndim == 4}),
    "a count of another kind": lambda t, i: t.update({n: v.int() for n, v in t.items() if n.endswith("tracked")}),
}
BY_NAME: dict[str, dict[str, Any]] = {
    "many layers": {"name": "timm/resnet18", "kwargs": {"layers": [90_000, 2, 2, 2]}},
    "many layers in many stages": {"name": "oct_resnet50", "kwargs": {"depths": [90_000] * 4}},
    "many blocks": {"name": "shard_resnet", "kwargs": {"blocks": 100_000, "scales": 100_000}},
    "a deep network of ours": {"name": "preact_resnet164", "kwargs": {"depth": 9 * 11_000 + 2}},
    "a width that nobody has": {"name": "resnet8", "kwargs": {"width": 10**9}},
    "settings by the hundred thousand": {"name": "timm/resnet18", "kwargs": {"layers": [1] * 100_000}},
    "another's weights": {"name": "torchvision/resnet18", "kwargs": {"weights_backbone": "DEFAULT"}},
    "a network of the hub": {"name": "timm/hf-hub:user/net", "kwargs": {}},
    "settings in the name": {"name": "resnet8(width=16)", "kwargs": {}},
    "a folder": {"name": "timm/local-dir:/etc", "kwargs": {}},
}


def refused(folder: Path, model: nn.Module | None) -> None:
    start = time.process_time()
    with pytest.raises(FileError) as error:
        lc.load(folder, model=model)
    assert "\n" not in str(error.value) and len(str(error.value)) < 1000
    assert time.process_time() - start < 15


@pytest.mark.parametrize("what", BOMBS)
@pytest.mark.parametrize("named", [True, False], ids=["built by name", "handed in"])
def test_a_file_that_asks_for_too_much_is_refused(what: str, named: bool, tmp_path: Path):
    saved(tmp_path, named)
    rewrite(tmp_path / MODEL_FILE, BOMBS[what])
    refused(tmp_path, None if named else own())


@pytest.mark.parametrize("what", BY_NAME)
def test_a_network_that_the_file_cannot_hold_is_not_built(what: str, tmp_path: Path):
    saved(tmp_path, True)
    rewrite(tmp_path / MODEL_FILE, lambda tensors, info: info.update(base=BY_NAME[what], plan=None))
    refused(tmp_path, None)


def test_a_plan_of_many_names_is_read_in_linear_time():
    model = own()
    value = lc.plan(model, lc.TiedBlock()).to_json()
    site = value["groups"][0]["sites"][0]
    value["kept"] = [{"site": {**site, "name": f"conv{n}"}, "reason": "r"} for n in range(30_000)]
    start = time.perf_counter()
    assert len(lc.Plan.from_json(value).kept) == 30_000
    assert time.perf_counter() - start < 10


def test_one_boundary_turns_whatever_a_file_raises_into_one_line(tmp_path: Path):
    for cause in (ValueError("a\nb"), RecursionError(), MemoryError(), KeyError("x" * 5000), SettingError("no")):
        with pytest.raises(FileError, match=r"net\.bin") as error, reading(tmp_path / "net.bin"):
            raise cause
        assert error.value.__cause__ is cause and "\n" not in str(error.value) and len(str(error.value)) < 700
    with pytest.raises(KeyboardInterrupt), reading("net.bin"):
        raise KeyboardInterrupt


@pytest.mark.parametrize("text", ["NaN", "[Infinity]", "-Infinity", "1e400", "[" * 65 + "]" * 65, "{", "9" * 5000])
def test_json_beyond_the_standard_is_refused(text: str):
    with pytest.raises(ValueError, match=r".+"):
        parse_json(text)
    assert parse_json('{"a": [1, 2.5, "x", null, true]}') == {"a": [1, 2.5, "x", None, True]}
