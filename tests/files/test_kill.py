"""A save that is killed at any moment leaves the old network or the new one."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import leanconv as lc
from leanconv.files.save import FORMAT
from tests.gates.tree import ROOT

KILLS = 120
# A process of its own, without threads when it forks: each child saves two networks in turn until it is killed.
PROGRAM = """
    import os, random, signal, sys, time
    import torch
    torch.set_num_threads(1)
    import leanconv as lc

    folder, kills = sys.argv[1], int(sys.argv[2])
    networks = []
    for value in (1.0, 2.0):
        model = lc.create_model("basis_resnet32", width=8)
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.data.fill_(value)
        networks.append(model)
    lc.save(networks[0], folder)
    start = time.perf_counter()
    lc.save(networks[0], folder)
    longest = max(0.06, 4 * (time.perf_counter() - start))  # a busy machine takes longer
    random.seed(0)
    for _ in range(kills):
        child = os.fork()
        if child == 0:
            while True:
                for model in networks[::-1]:
                    lc.save(model, folder)
        time.sleep(random.uniform(0, longest))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        found = lc.load(folder)
        values = {float(value) for tensor in (*found.parameters(), *found.buffers()) for value in tensor.unique()}
        print(sorted(values), flush=True)
"""


@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="needs fork")
@pytest.mark.timeout(300)
def test_killed_at_random_moments(tmp_path: Path):
    command = [sys.executable, "-c", textwrap.dedent(PROGRAM), str(tmp_path), str(KILLS)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    states = done.stdout.split("\n")[:-1]
    assert len(states) == KILLS
    assert set(states) == {"[1.0]", "[2.0]"}, "a network is whole, and both were seen"
    assert json.loads((tmp_path / "plan.json").read_text())["version"] == FORMAT
    assert lc.load(tmp_path) is not None
    left = {path.name for path in tmp_path.iterdir()} - {"model.safetensors", "plan.json"}
    assert len(left) <= KILLS, "at most one temporary file for each kill"
