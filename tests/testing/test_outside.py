"""An operator of another package: no file of leanconv knows it, and everything works with it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.gates.tree import ROOT
from tests.testing.outside import CIRCULANT, WRONG, install


def run(code: str, *folders: Path) -> subprocess.CompletedProcess[str]:
    """`code` in a new process, with these folders on the path."""
    path = os.pathsep.join(map(str, (ROOT, *folders)))
    command = [sys.executable, "-W", "error::UserWarning:leanconv", "-c", f"import leanconv as lc\n{code}"]
    return subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=300)


def passes(code: str, *folders: Path) -> str:
    done = run(code, *folders)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


MAKE = """
import torch
torch.manual_seed(0)
dense = lc.create_model("resnet20").eval()
method = lc.find_method("block_circulant")(size=4)
plan = lc.plan(dense, method, "layer*.conv?")
lean = lc.convert(dense, plan, init="fit")
x = torch.randn(2, 3, 32, 32)
"""


@pytest.mark.timeout(300)  # several processes, each of which imports torch
def test_it_plans_converts_saves_exports_and_runs(tmp_path: Path):
    here = install(tmp_path / "site")
    passes(
        f"""{MAKE}
assert "block_circulant" in lc.list_methods() and lc.METHODS[-1] is type(method)
assert plan.groups and plan.params() < plan.params_dense()
assert lc.count(lean).params == lc.count(dense).params - plan.params_dense() + plan.params()
lc.save(lean, {str(tmp_path / "net")!r})
torch.save((x, lean(x)), {str(tmp_path / "xy.pt")!r})
torch.testing.assert_close(lc.to_dense(lean)(x), lean(x), rtol=1e-4, atol=1e-4)
lc.export(lean, {str(tmp_path / "net.pt2")!r}, example=x, verify=True)
fast = lc.optimize(lean, x, measured=False)
torch.testing.assert_close(fast(x), lean(x), rtol=1e-3, atol=1e-3)
""",
        here,
    )
    passes(  # in a new process, which has not imported the package
        f"""
import sys, torch
lean = lc.load({str(tmp_path / "net")!r})
assert "circulant.operator" in sys.modules and lc.plan_of(lean).groups[0].method.label() == "block_circulant(size=4)"
x, y = torch.load({str(tmp_path / "xy.pt")!r})
assert torch.equal(lean(x), y)
""",
        here,
    )
    shown = passes(
        'from leanconv.cli import main\nmain(["inspect", "resnet20", "--method", "block_circulant(size=4)"])', here
    )
    assert "block_circulant(size=4)" in shown or "BlockCirculant" in shown
    assert "plan" in (tmp_path / "net" / "plan.json").read_text()
    text = (tmp_path / "net" / "plan.json").read_text()
    assert '"module": "circulant.operator"' in text and '"name": "circulant"' in text and '"0.3"' in text
    # where it is not installed, the error says what to install, and nothing of its name is imported
    done = run(f"lc.load({str(tmp_path / 'net')!r})")
    assert "pip install circulant" in done.stderr and "circulant 0.3" in done.stderr
    unannounced = install(tmp_path / "other", entry="")
    done = run(f"lc.load({str(tmp_path / 'net')!r})", unannounced)
    assert "import circulant.operator before you load" in done.stderr
    passes(f"import circulant.operator\nlc.load({str(tmp_path / 'net')!r})", unannounced)


@pytest.mark.timeout(300)
def test_it_fulfils_the_contract_and_a_wrong_fit_does_not(tmp_path: Path):
    check = "from leanconv.testing import check_method\ncheck_method(lc.find_method('block_circulant')(2){})"
    passes(check.format(""), install(tmp_path / "right"))
    done = run(check.format(", 'fit*'"), install(tmp_path / "wrong", WRONG))
    assert "ContractError" in done.stderr and "fit_is_nearest on '3x3': the fit is not the nearest" in done.stderr
    assert CIRCULANT != WRONG


def test_in_the_repository_it_is_one_file_and_no_edit(tmp_path: Path):
    shutil.copytree(ROOT / "leanconv", tmp_path / "leanconv", ignore=shutil.ignore_patterns("__pycache__"))
    text = '__all__ = ["BlockCirculant", "BlockCirculantConv2d"]\n' + CIRCULANT
    (tmp_path / "leanconv" / "ops" / "block_circulant.py").write_text(text)
    code = """
import leanconv as lc
assert "BlockCirculant" in lc.__all__ and lc.find_method("block_circulant") is lc.BlockCirculant
assert "block_circulant" in lc.list_methods()[:11] and lc.BlockCirculantConv2d(8, 8, 3, size=4).size == 4
"""
    command = [sys.executable, "-c", code]
    here = {"cwd": tmp_path, "env": {**os.environ, "PYTHONPATH": str(tmp_path)}}
    done = subprocess.run(command, capture_output=True, text=True, **here)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("source", "entry", "message"),
    [
        ("import not_there", None, "circulant.operator:BlockCirculant cannot be imported (ModuleNotFoundError"),
        ("x = 1", "block_circulant = circulant.operator", "circulant.operator defines no method of that name"),
        ("x = 1", None, "cannot be imported (AttributeError"),
        (CIRCULANT.replace("def build(", "def built(").replace("def macs(", "def mac("), None,
         "circulant.operator:BlockCirculant is no method as long as it lacks build, macs; define them in the class"),
        (CIRCULANT + "\nraise ValueError('half made')\n", None, "cannot be imported (ValueError: half made); fix or update"),
        (CIRCULANT.replace("class BlockCirculant(", "class TiedBlock("), "block_circulant = circulant.operator",
         "two methods are called 'tied_block': leanconv.ops.tied_block.TiedBlock and circulant.operator.TiedBlock"),
    ],
)  # fmt: skip
def test_a_broken_package_is_a_warning_that_names_it(tmp_path: Path, source: str, entry: str | None, message: str):
    here = install(tmp_path, source, entry=entry)
    out = passes(
        """
import warnings
with warnings.catch_warnings(record=True) as found:
    warnings.simplefilter("always")
    assert len(lc.list_methods()) == len(lc.METHODS) >= 10 and "block_circulant" not in lc.list_methods()
    lc.METHODS
print(*(warning.message for warning in found))
""",
        here,
    )
    assert "the package circulant announces the method 'block_circulant'" in out and message in out
    assert out.count("announces") == 1
