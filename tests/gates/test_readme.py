"""What README.md shows runs, and the commands it names exist."""

from __future__ import annotations

import re
import shlex

import pytest

from tests.gates.tree import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^\$ leanconv (.*?)(?:\s+#.*)?$", README, re.M)
FLAGS = (ROOT / "tests/gates/cli_flags.txt").read_text(encoding="utf-8")


PYTHON = re.findall(r"```python\n(.*?)```", README, re.S)


def run(block: str) -> None:
    exec(compile(block, "README.md", "exec"), {})


@pytest.mark.timeout(900)
def test_the_first_python_lines_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    run(PYTHON[0])
    shown = capsys.readouterr().out
    assert "dense" in shown and "uniform" in shown and "of the MACs" in shown
    assert (tmp_path / "runs/lean/model.onnx").exists() and (tmp_path / "runs/lean/model.safetensors").exists()


def test_the_lines_for_a_notebook_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run(PYTHON[1])
    shown = capsys.readouterr().out
    assert "tied_block(blocks=2)" in shown and "Test top-1 %" in shown
    assert "tied_block(blocks=2)" in (tmp_path / "compare.html").read_text(encoding="utf-8")
    assert len(PYTHON) == 2


@pytest.mark.parametrize("command", COMMANDS)
def test_the_commands_and_their_flags_exist(command):
    verb, *words = shlex.split(command)
    known = {tuple(line.split()[:2]) for line in FLAGS.splitlines() if line}
    assert any(line[0] == verb for line in known)
    for flag in (word for word in words if word.startswith("--")):
        assert re.search(rf"^{verb}\b.*{flag}\b", FLAGS, re.M), f"{verb} has no {flag}"


def test_the_commands_are_found():
    assert len(COMMANDS) >= 6
