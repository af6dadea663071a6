"""A stored time is used only where it would be measured again in the same way."""

from __future__ import annotations

import pytest
import torch

from leanconv.core.errors import LeanconvWarning, SettingError
from leanconv.timing import runtimes, store
from leanconv.timing.store import TimeStore, key_of


@pytest.mark.parametrize(
    ("package", "in_key"),
    [("openvino", "openvino"), ("onnxruntime", "onnxruntime"), ("onnx", "onnxruntime")],
)
def test_the_key_holds_the_versions_of_the_runtime(package, in_key, monkeypatch):
    x = torch.zeros(1, 3, 8, 8)

    def keys(version: str) -> dict[str, str]:
        runtimes.software.cache_clear()
        monkeypatch.setattr(runtimes, "versions", lambda: dict.fromkeys(versions, "1.0") | {package: version})
        return {runtime: key_of("layer", x, runtime, 1) for runtime in runtimes.RUNTIMES}

    versions = runtimes.versions()
    old, new = keys("1.0"), keys("1.1")
    monkeypatch.undo()
    runtimes.software.cache_clear()
    assert {runtime for runtime in old if old[runtime] != new[runtime]} == {in_key}


def test_the_key_holds_leanconvs_version_and_the_cpus_instructions(monkeypatch):
    x = torch.zeros(1, 3, 8, 8)
    runtimes.software.cache_clear()
    monkeypatch.setattr(runtimes, "__version__", "9.8.7")
    monkeypatch.setattr(store, "describe_cpu", lambda: "CPU amx_int8")
    key = key_of("layer", x, "eager", 1)
    runtimes.software.cache_clear()
    assert key.startswith(f"eager | CPU amx_int8, leanconv 9.8.7, torch {torch.__version__} | 1 | ")


def test_two_processes_keep_each_others_times(tmp_path):
    first, second = TimeStore(tmp_path / "times.json"), TimeStore(tmp_path / "times.json")
    first.times |= {"a": {"x": 1.0}, "b": {"x": 1.0}}
    first.write()
    second.times["b"] = {"y": 2.0}
    second.write()
    assert TimeStore(tmp_path / "times.json").times == {"a": {"x": 1.0}, "b": {"x": 1.0, "y": 2.0}}


def test_times_that_cannot_be_kept_are_no_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.warns(LeanconvWarning, match="measured times are not kept"):
        TimeStore(tmp_path / "file" / "times.json").write()
    with pytest.raises(SettingError, match=r"is a folder; give a file, such as '.*forms\.json'"):
        TimeStore(tmp_path)
