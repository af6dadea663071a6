"""What README.md shows runs, and the commands it names exist."""

from __future__ import annotations

import re
import shlex

import pytest

from tests.gates.tree import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^\$ leanconv (.*?)(?:\s+#.*)?$", README, re.M)
FLAGS = (ROOT / "tests/gates/cli_flags.txt").read_text(encoding="utf-8")


def test_the_python_lines_run(tmp_path, monkeypatch, capsys):
    code = re.search(r"```python\n(.*?)```", README, re.S)
    assert code is not None
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(compile(code[1], "README.md", "exec"), names)
    assert "tied_block(blocks=4)" in capsys.readouterr().out
    assert (tmp_path / "out" / "model.safetensors").stat().st_size < 61_000_000


@pytest.mark.parametrize("command", COMMANDS)
def test_the_commands_and_their_flags_exist(command):
    verb, *words = shlex.split(command)
    known = {tuple(line.split()[:2]) for line in FLAGS.splitlines() if line}
    assert any(line[0] == verb for line in known)
    for flag in (word for word in words if word.startswith("--")):
        assert re.search(rf"^{verb}\b.*{flag}\b", FLAGS, re.M), f"{verb} has no {flag}"


def test_the_commands_are_found():
    assert len(COMMANDS) >= 6
