"""Check the tests with deliberate faults (mutants), one at a time.

A mutant is one changed line of the package that computes something else, in a copy of the tree. The program runs only the tests
that the mutant names. They must pass without the mutant. If they also pass with the mutant, the mutant survives, and a test is
missing. Outcomes are stored in --state, so that an interrupted run can continue:

    python benchmarks/mutants.py --state mutants.state.json -o results/mutation-leanconv-DATE.json
    python benchmarks/mutants.py --check          # only check that each text occurs exactly once in its file
    python benchmarks/mutants.py --only resume    # one area, or one file
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mutant_list import MUTANTS, Mutant, area  # noqa: F401  tests make mutants of their own

from leanconv.core.atomic import write_json
from leanconv.core.errors import CheckError, SettingError
from leanconv.core.machine import provenance

ROOT = Path(__file__).resolve().parents[1]
COPIED = ("leanconv", "tests", "results", "benchmarks", "examples", "docs")
KILLED = ("killed", "timed out")
TIMEOUT = 300.0  # seconds for the tests of one mutant


def faults(mutants: Sequence[Mutant]) -> list[str]:
    """The entries whose text no longer occurs exactly once in its file."""
    found = []
    for mutant in mutants:
        path = ROOT / mutant.file
        times = path.read_text(encoding="utf-8").count(mutant.old) if path.is_file() else 0
        if times != 1:
            found.append(f"{mutant.name}: stands {times} times in its file")
        missing = [
            test for test in mutant.tests if test.startswith("tests/") and not (ROOT / test.split("::")[0]).exists()
        ]
        found += [f"{mutant.name}: there is no {test}" for test in missing]
        if mutant.old == mutant.new:
            found.append(f"{mutant.name}: changes nothing")
    return found


def copy_tree(to: Path) -> None:
    """Copy the package, its tests, and the files that the tests read."""
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, to / name, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy2(path, to / path.name)


def run_tests(tree: Path, tests: Sequence[str], timeout: float) -> tuple[str, float]:
    """("passed", "killed" or "timed out", seconds)."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--no-header", *tests]
    environment = os.environ | {"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    began = time.perf_counter()
    try:
        done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, timeout=timeout)
    except subprocess.TimeoutExpired:
        return "timed out", time.perf_counter() - began
    seconds = time.perf_counter() - began
    # 1: a test failed; 2: a file of tests could not even be imported; below 0: Python itself was ended by a signal
    if done.returncode > 2:
        raise CheckError(
            f"pytest {shlex.join(tests)} ended with {done.returncode}: {done.stdout[-300:]}{done.stderr[-300:]}"
        )
    return ("passed" if done.returncode == 0 else "killed"), seconds


def key_of(mutant: Mutant) -> str:
    """A key that changes when the mutant, its file or its tests change, so that an old outcome is not reused."""
    total = hashlib.sha256(mutant.name.encode())
    for file in (mutant.file, *(test.split("::")[0] for test in mutant.tests if test.startswith("tests/"))):
        total.update((ROOT / file).read_bytes())
    return total.hexdigest()[:16]


def judge(mutants: Sequence[Mutant], state: Path | None, timeout: float) -> dict[str, dict[str, Any]]:
    """The outcome of each mutant: "killed", "timed out" or "survived"."""
    known: dict[str, dict[str, Any]] = json.loads(state.read_text()) if state is not None and state.exists() else {}
    sound: set[tuple[str, ...]] = set()
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        tree = Path(folder)
        copy_tree(tree)
        for number, mutant in enumerate(mutants, 1):
            key = key_of(mutant)
            if key not in known:
                if mutant.tests not in sound:
                    if run_tests(tree, mutant.tests, timeout)[0] != "passed":
                        raise CheckError(
                            f"pytest {shlex.join(mutant.tests)} does not pass without any mutant; fix this first"
                        )
                    sound.add(mutant.tests)
                path = tree / mutant.file
                text = path.read_text(encoding="utf-8")
                path.write_text(text.replace(mutant.old, mutant.new), encoding="utf-8")
                try:
                    outcome, seconds = run_tests(tree, mutant.tests, timeout)
                finally:
                    path.write_text(text, encoding="utf-8")
                known[key] = {
                    "outcome": "survived" if outcome == "passed" else outcome,
                    "test_seconds": round(seconds, 1),
                }
                if state is not None:
                    write_json(state, known)
            print(f"[{number}/{len(mutants)}] {known[key]['outcome']}: {mutant.name}", flush=True)
    return {mutant.name: known[key_of(mutant)] for mutant in mutants}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="part of an area's or a file's name")
    parser.add_argument("--state", type=Path, help="file for the outcomes; the same command continues from this file")
    parser.add_argument("--timeout", type=float, default=TIMEOUT, help="seconds for the tests of one mutant")
    parser.add_argument("--check", action="store_true", help="run nothing")
    parser.add_argument("-o", "--out", type=Path, help="a file for results/")
    options = parser.parse_args()
    mutants = [mutant for mutant in MUTANTS if options.only in mutant.area or options.only in mutant.file]
    if not mutants:
        raise SettingError(
            f"--only {options.only!r} names no mutant; areas are {', '.join({m.area: 0 for m in MUTANTS})}"
        )
    wrong = faults(mutants)
    if wrong:
        raise CheckError("; ".join(wrong))
    if options.check:
        print(f"{len(mutants)} mutants, each text occurs once")
        return
    outcomes = judge(mutants, options.state, options.timeout)
    killed = [mutant for mutant in mutants if outcomes[mutant.name]["outcome"] in KILLED]
    print(f"{len(killed)} of {len(mutants)} mutants were seen by the tests")
    for mutant in mutants:
        if mutant not in killed:
            print(f"survived: {mutant.name}")
    if options.out is not None:
        rows = [
            {"area": m.area, "file": m.file, "old": m.old, "new": m.new, "tests": list(m.tests), **outcomes[m.name]}
            for m in mutants
        ]
        settings = {
            "mutants": len(mutants),
            "killed": len(killed),
            "only": options.only,
            "timeout_seconds": options.timeout,
        }
        command = shlex.join(["python", "benchmarks/mutants.py", *(["--only", options.only] if options.only else [])])
        head = provenance(command) | {"kind": "mutation", "settings": settings, "n": 1, "seeds": []}
        write_json(options.out, head | {"rows": rows})


if __name__ == "__main__":
    main()
