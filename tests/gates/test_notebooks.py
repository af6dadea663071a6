"""The notebooks run from their first cell to their last, and are committed without outputs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.gates import prose, tree

nbformat = pytest.importorskip("nbformat")
pytest.importorskip("nbclient")
NOTEBOOKS = sorted((tree.ROOT / "docs" / "notebooks").glob("*.ipynb"))
# in a process of its own, because the clients of Jupyter warn, and warnings are errors here
RUN = """
import sys, nbformat
from nbclient import NotebookClient
book = nbformat.read(sys.argv[1], as_version=4)
NotebookClient(book, timeout=280, kernel_name="python3").execute()
nbformat.write(book, "executed.ipynb")
"""


@pytest.mark.timeout(300)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=tree.name)
def test_a_notebook_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(tree.ROOT))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    done = subprocess.run([sys.executable, "-c", RUN, path], cwd=tmp_path, capture_output=True, text=True, timeout=290)
    assert done.returncode == 0, done.stderr[-3000:]
    executed = json.loads((tmp_path / "executed.ipynb").read_text(encoding="utf-8"))
    outputs = [output for cell in executed["cells"] if cell["cell_type"] == "code" for output in cell["outputs"]]
    assert outputs, "a notebook shows something"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=tree.name)
def test_a_notebook_is_plain(path: Path) -> None:
    """Valid, without outputs, in plain words."""
    book = nbformat.read(path, as_version=4)
    nbformat.validate(book)
    for cell in book.cells:
        if cell.cell_type == "code":
            assert cell.outputs == [] and cell.execution_count is None, "clear the outputs before you commit"
        else:
            assert prose.riddles(cell.source) == []


def test_there_are_three() -> None:
    assert len(NOTEBOOKS) == 3
