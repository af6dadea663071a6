"""Send every network of timm and torchvision through the library: ``python benchmarks/sweep.py --state FILE -o SUMMARY``.

There are two parts, and each network runs in its own process. The first part runs without weights: build, count, plan, convert,
count the lean network, and compare the output shapes of both networks in a forward pass. The second part runs with weights, for
the smallest network of each family and for all networks up to ``--real-params``: build, convert, save, reload, and compare the
outputs bit for bit. The result of each network is a line of JSON in ``--state``. Networks in this file are not run again, except
failures with ``--retry``.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import multiprocessing
import re
import resource
import shlex
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import leanconv as lc
from leanconv.core.atomic import write_json
from leanconv.core.machine import provenance
from leanconv.core.notes import input_size_of

METHOD = lc.TiedBlock(blocks=2)
MEMORY_GIB = 14
SMALL = (96, 64)  # sides to try before a network's own size, for the forward passes with weights
# What is no failure of the library's: the step it stops at, and why.
NOTHING = "nothing to convert"


@contextmanager
def step(record: dict[str, Any], name: str) -> Any:
    """Note how long a step took, and which one failed."""
    record["step"] = name
    start = time.perf_counter()
    yield
    record["seconds"][name] = round(time.perf_counter() - start, 2)


def builder(name: str) -> tuple[Callable[[], nn.Module], bool]:
    """The function that builds the network without published weights, and whether leanconv knows the network by name."""
    source, _, short = name.partition("/")
    classifiers = torchvision.models.list_models(module=torchvision.models)
    if source == "timm" or short in classifiers:
        return lambda: lc.create_model(name), True
    settings: dict[str, Any] = {"weights": None}
    if not short.startswith(("quantized_", "raft", "mc3", "mvit", "r2plus1d", "r3d", "s3d", "swin3d")):
        settings["weights_backbone"] = None
    return lambda: torchvision.models.get_model(short, **settings), False


def family(name: str) -> str:
    """The source file of a network."""
    source, _, short = name.partition("/")
    if source == "timm":
        return f"timm/{timm.model_entrypoint(short).__module__}"
    return f"torchvision/{torchvision.models.get_model_builder(short).__module__}"


def planned(model: nn.Module, size: tuple[int, int, int], record: dict[str, Any]) -> lc.Plan | None:
    """The plan, noted in `record`; None if the plan converts nothing, which is then noted as the status."""
    with step(record, "plan"):
        try:
            plan = lc.plan(model, METHOD, input_size=size)
        except lc.LeanconvError as error:
            if any(isinstance(module, nn.Conv2d) for module in model.modules()):
                raise
            record["status"], record["reason"] = NOTHING, str(error)
            return None
    record["converted"] = sum(len(group.sites) for group in plan.groups)
    record["kept"] = dict(Counter(re.sub(r"'[^']*'|\d+", "N", kept.reason) for kept in plan.kept))
    if plan.groups:
        return plan
    record["status"], record["reason"] = NOTHING, plan.kept[0].reason
    return None


def shapes(output: Any) -> list[tuple[int, ...]]:
    return [tuple(leaf.shape) for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]


def without_weights(name: str, record: dict[str, Any]) -> None:
    """The first part: shapes and counts."""
    build, _ = builder(name)
    with step(record, "build"):
        record["on_meta"] = True
        try:
            with torch.device("meta"):
                model = build()
        except Exception:  # a builder that computes with real numbers
            record["on_meta"] = False
            model = build()
    size = input_size_of(model) or (3, 224, 224)
    record["params"] = sum(p.numel() for p in model.parameters())
    record["input_size"] = list(size)
    plan = planned(model, size, record)
    try:
        with step(record, "count"):
            dense = lc.count(model, size)
    except lc.LeanconvError as error:
        if any(isinstance(module, nn.Conv2d) for module in model.modules()):
            raise
        record["reason"] += f"; not counted: {error}"  # video, which has no 2-d convolution either
        return
    record["macs"] = dense.macs
    record["uncounted"] = list(dense.uncounted)
    if plan is None:
        return
    with step(record, "convert"):
        lean = lc.convert(model, plan)
    with step(record, "count lean"):
        record["lean_macs"] = lc.count(lean, size).macs
    with step(record, "forward"), torch.no_grad():
        device = next(model.parameters()).device
        x = torch.zeros(1, *size, device=device)
        try:
            wanted = shapes(model.eval()(x))
        except NotImplementedError:  # not on the meta device; the counts above ran it another way
            record["on_meta"] = False
            return
        assert shapes(lean.eval()(x)) == wanted, "the lean network's output has another shape"


def with_weights(name: str, record: dict[str, Any]) -> None:
    """The second part: the loaded network must equal the saved one."""
    build, named = builder(name)
    with step(record, "build"):
        model = build().eval()
    record["params"] = sum(p.numel() for p in model.parameters())
    size = input_size_of(model) or (3, 224, 224)
    plan = planned(model, size, record)
    with step(record, "convert"):
        lean = model if plan is None else lc.convert(model, plan)
    with step(record, "run"), torch.no_grad():
        try:
            x, wanted = run(lean, size)
        except Exception as error:
            if plan is not None:
                raise
            record["reason"] += f"; not run: {' '.join(str(error).split())[:200]}"
            return
        record["ran_on"] = list(x.shape[1:])
    with tempfile.TemporaryDirectory() as folder:
        with step(record, "save"):
            lc.save(lean, folder)
        with step(record, "load"):
            back = lc.load(folder) if named else lc.load(folder, model=build())
    with step(record, "compare"), torch.no_grad():
        torch.manual_seed(0)
        pairs = zip(tree_leaves(wanted), tree_leaves(back(x)), strict=True)
        same = all(torch.equal(a, b) for a, b in pairs if isinstance(a, Tensor))
        assert same, "the reloaded network computes something else"


def run(lean: nn.Module, size: tuple[int, int, int]) -> tuple[Tensor, Any]:
    """A random image and the output. The image is small, or has the network's own size if the network takes no other."""
    for side in (*SMALL, size[1]):
        x = torch.rand(1, size[0], side, side if side in SMALL else size[2])
        try:
            torch.manual_seed(0)
            return x, lean(x)
        except Exception:
            if side not in SMALL:
                raise
    raise AssertionError


PARTS = {"without weights": without_weights, "with weights": with_weights}


def child(name: str, part: str, send: Connection) -> None:
    """Run one network in a process with a memory limit."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_GIB << 30, MEMORY_GIB << 30))
    record: dict[str, Any] = {"name": name, "part": part, "status": "ok", "reason": None, "seconds": {}}
    try:
        PARTS[part](name, record)
    except BaseException as error:
        ours = isinstance(error, lc.LeanconvError)
        record["status"] = f"{'refused' if ours else 'failed'} at {record.get('step')}"
        record["reason"] = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    record.pop("step", None)
    send.send(record)


def examine(name: str, part: str, timeout: float) -> dict[str, Any]:
    """The record of one network, also if its process dies."""
    context = multiprocessing.get_context("fork")
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=child, args=(name, part, send))
    process.start()
    send.close()
    record: dict[str, Any] | None = None
    with suppress(EOFError):  # the process ended without a result
        record = receive.recv() if receive.poll(timeout) else None
    if process.is_alive():
        process.join(1)
        process.kill()
    process.join()
    if record is None:
        reason = f"over {timeout:.0f} s" if process.exitcode == -9 else f"the process ended with {process.exitcode}"
        record = {"name": name, "part": part, "status": "failed", "reason": reason, "seconds": {}}
    return record


def read(state: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """The last record of each network and part."""
    lines = state.read_text(encoding="utf-8").splitlines() if state.exists() else []
    records = [json.loads(line) for line in lines]
    return {(record["name"], record["part"]): record for record in records}


def networks(glob: str) -> list[str]:
    own = {entry.name for entry in lc.list_models()}
    every = [f"timm/{name}" for name in timm.list_models() if name not in own]
    every += [f"torchvision/{name}" for name in torchvision.models.list_models()]
    return [name for name in every if fnmatch.fnmatchcase(name, glob)]


def real_ones(names: list[str], done: dict[tuple[str, str], dict[str, Any]], most: float) -> list[str]:
    """The networks to run with weights: the smallest of each family, then all others up to `most` parameters, by size."""
    sizes = {name: done[name, "without weights"].get("params") for name in names if (name, "without weights") in done}
    known = sorted((size, name) for name, size in sizes.items() if size)
    first: dict[str, str] = {}
    for _, name in known:
        first.setdefault(family(name), name)
    chosen = [name for size, name in known if name in first.values() and size <= 10 * most]
    return chosen + [name for size, name in known if size <= most and name not in first.values()]


def failed(record: dict[str, Any]) -> bool:
    return record["status"] not in ("ok", NOTHING)


def summary(names: list[str], records: list[dict[str, Any]], settings: dict[str, Any], command: str) -> dict[str, Any]:
    """One row for each part, and one for each network that did not pass, with the reason."""
    rows: list[dict[str, Any]] = []
    for part in PARTS:
        own = [record for record in records if record["part"] == part]
        statuses = Counter(record["status"] for record in own)
        row = {"part": part, "networks": len(own), "ok": statuses.pop("ok", 0), NOTHING: statuses.pop(NOTHING, 0)}
        rows.append({**row, "others": sum(statuses.values()), "took_seconds": round(sum(map(took, own)), 1)})
    reasons = Counter(record["reason"] for record in records if record["status"] == NOTHING)
    rows += [{"part": "both", "status": NOTHING, "reason": r, "networks": n} for r, n in reasons.most_common()]
    kept = ("part", "name", "status", "reason", "params")
    rows += [{key: record.get(key) for key in kept} for record in records if failed(record)]
    partly = [record for record in records if record.get("uncounted")]
    rows += [{"part": r["part"], "name": r["name"], "status": "ok", "uncounted": r["uncounted"]} for r in partly]
    notes = [
        "nothing to convert: the network has no convolution that the method takes; it was still counted, saved and reloaded.",
        "without weights: shapes and counts on an image of the network's own size; with weights: outputs compared bit for bit.",
        "with weights: the smallest network of each family, and every other one up to real_params parameters.",
        "A run takes hours and continues after fixes: networks that passed earlier may have passed at an earlier commit; "
        "networks that failed were run again.",
    ]
    head = provenance(command)
    return {**head, "kind": "sweep", "settings": settings, "n": 1, "seeds": [0], "notes": notes, "rows": rows}


def took(record: dict[str, Any]) -> float:
    return sum(record["seconds"].values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--state", type=Path, required=True, help="a file of JSON lines, outside the tree")
    parser.add_argument("--names", default="*", metavar="GLOB", help="timm/resnet*")
    parser.add_argument("--parts", default=",".join(PARTS), help="which of the two parts, separated by a comma")
    parser.add_argument("--real-params", type=float, default=12e6, metavar="N", help="largest network with weights")
    parser.add_argument("--timeout", type=float, default=180, help="seconds a network")
    parser.add_argument("--retry", action="store_true", help="run failed networks again")
    parser.add_argument("-o", "--out", type=Path, help="where to write the summary")
    given = parser.parse_args()
    torch.set_num_threads(1)
    for name in lc.__all__:  # imported before the processes fork
        getattr(lc, name)
    names = networks(given.names)
    done = read(given.state)
    for part in given.parts.split(","):
        chosen = names if part == "without weights" else real_ones(names, done, given.real_params)
        with given.state.open("a", encoding="utf-8") as file:
            for number, name in enumerate(chosen, 1):
                known = done.get((name, part))
                if known is not None and not (given.retry and failed(known)):
                    continue
                record = done[name, part] = examine(name, part, given.timeout)
                file.write(json.dumps(record) + "\n")
                file.flush()
                said = record["status"] if record["reason"] is None else f"{record['status']}: {record['reason']}"
                print(f"[{number}/{len(chosen)}] {name}, {part}, {took(record):.1f} s: {said}", flush=True)
    if given.out is not None:
        command = shlex.join(["python", "benchmarks/sweep.py", "--state", "STATE", "-o", given.out.name])
        settings = {"method": METHOD.label(), "real_params": given.real_params, "timeout_s": given.timeout}
        write_json(given.out, summary(names, [r for r in done.values() if r["name"] in names], settings, command))


if __name__ == "__main__":
    main()
