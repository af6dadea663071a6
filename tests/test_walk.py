"""The stranger's walk of `tests/walk.py` arrives, from a clone of what is committed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.gates import tree

pytestmark = pytest.mark.skipif(
    shutil.which("git") is None or not (tree.ROOT / ".git").exists(), reason="a clone needs git and a repository"
)


@pytest.mark.timeout(900)
def test_a_stranger_arrives(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    command = [sys.executable, "-m", "tests.walk", "--together", "-o", str(tmp_path / "steps.json")]
    done = subprocess.run(command, cwd=tree.ROOT, env=environment, capture_output=True, text=True, timeout=880)
    assert done.returncode == 0, done.stderr[-3000:]
    steps = json.loads((tmp_path / "steps.json").read_text())["rows"]
    assert [step["page"] for step in steps if step["step"] == "its Python lines"] == [
        "README.md", "docs/guides/module.md",
    ]  # fmt: skip
    verbs = {step["step"].split()[1] for step in steps if step["step"].startswith("leanconv")}
    assert verbs >= {"lean", "predict", "convert", "eval", "export"}
    assert all(step["seconds"] >= 0 for step in steps)
