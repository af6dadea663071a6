"""The documentation site is built without a warning: every link, anchor and name in it exists."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.gates import tree

pytest.importorskip("mkdocs")
PAGES = ("index", "start", "concepts", "glossary", "guides/checkpoint", "papers/tbc", "reference/api", "reference/cli")
REFERENCE = {  # page: a name that it must document
    "api": "leanconv.core.task.Task", "training": "leanconv.train.fsdp.shard_", "search": "leanconv.search.faster.faster_only",
    "analyse": "leanconv.analyse.cam.grad_cam", "detect": "leanconv.detect.verbs.evaluate",
    "testing": "leanconv.testing.contract.check_method",
}  # fmt: skip


@pytest.mark.timeout(300)
def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    """About 8 s of one core."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=tree.ROOT, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    texts = {name: (tmp_path / f"{name}.html").read_text(encoding="utf-8") for name in PAGES}
    for page, name in REFERENCE.items():
        text = (tmp_path / "reference" / f"{page}.html").read_text(encoding="utf-8")
        assert f'id="{name}"' in text, "the docstrings are not rendered"
    assert "SeparableConv2d" in (tmp_path / "guides" / "operator.html").read_text(encoding="utf-8")
    outside = {
        found for text in texts.values() for found in re.findall(r'(?:src|<link[^>]*href)="(https?:[^"]*)"', text)
    }
    assert not outside, "a page asks another server"


def test_links_are_turned() -> None:
    spec = importlib.util.spec_from_file_location("hooks", tree.ROOT / "docs" / "hooks.py")
    assert spec is not None and spec.loader is not None
    hooks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hooks)
    assert hooks.turned("[a](docs/speed.md#b)", "README.md", "index.md") == "[a](speed.md#b)"
    assert hooks.turned("[a](../CONTRIBUTING.md)", "docs/files.md", "files.md") == "[a](contributing.md)"
    assert hooks.turned("[a](../../README.md)", "docs/guides/x.md", "guides/x.md") == "[a](../index.md)"
    assert hooks.turned("[a](https://x.y/z.md) [b](#c)", "README.md", "index.md") == "[a](https://x.y/z.md) [b](#c)"
