"""``leanconv export``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import leanconv as lc


def test_from_the_command_line(call: Callable, tmp_path: Path):
    model = lc.create_model("resnet8")
    lc.save(lc.convert(model, lc.plan(model, lc.SharedBasis(4))), tmp_path / "net.v1.0")
    answer = call("export", tmp_path / "net.v1.0", "--to", "pt2,state-dict", "-o", tmp_path / "files", "--json")
    assert answer.code == 0
    files = json.loads(answer.out)["files"]
    assert [file["path"] for file in files] == ["net.v1.0.pt2", "net.v1.0.safetensors"]
    assert all(file["max_error"] < 1e-4 and (tmp_path / "files" / file["path"]).is_file() for file in files)
    answer = call("export", "resnet8", "--to", "state-dict", "-o", tmp_path / "files", "--form", "fast")
    assert answer.code == 0 and "resnet8.safetensors" in answer.out and "Unique" in answer.out
    (tmp_path / "images").mkdir()
    answer = call("export", "resnet8", "--to", "pt2", "-o", tmp_path, "--images", tmp_path / "images")
    assert answer.code == 2 and "no image in" in answer.err
