"""The folder of a run: one process works in it at a time, for one run, and a finished run is not repeated."""

from __future__ import annotations

import contextlib
import math
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from torch import nn

from leanconv.core.atomic import remove_leftovers, write_json
from leanconv.core.errors import DataError, FileError, LeanconvError, SettingError
from leanconv.core.generators import fixed_seed
from leanconv.core.processes import leads
from leanconv.core.reading import one_line, parse_json
from leanconv.data.fingerprint import FINGERPRINT, NORMALISATION, OBJECTS
from leanconv.files.target import Network, built, code_digest, network_digest

RUN_FILE = "run.json"
SUMMARY_FILE = "summary.json"
METRICS_FILE = "metrics.jsonl"
LOCK_FILE = ".lock"
CLASS_NAMES = "class_names"  # in a run's identity since classes are compared by name
BUILT = "built"  # the layers that a function built; None for a network by name or in memory
CODE = "network_code"  # what the layers of a network do not say of it
SPLIT, SIZE, SCRATCH, THREADS = "split", "network_size", "scratch", "timed_threads"  # of a search for a lean network
# What the identity of an older run or search lacks
LATER = (CLASS_NAMES, FINGERPRINT, NORMALISATION, OBJECTS, BUILT, CODE, SPLIT, SIZE, SCRATCH, THREADS)
FILES = (RUN_FILE, SUMMARY_FILE, "model.safetensors", "plan.json", "report.html")  # the files that a run writes here
UNMET_FILE = "unmet.json"  # a search whose budget cannot be met leaves it: another search may take the folder
FIRST_FILES = (RUN_FILE, "config.yaml", "env.json")  # what it writes before its first step


def once(
    folder: Path,
    identity: dict[str, Any],
    work: Callable[[], dict[str, Any]],
    *,
    resume: bool,
    scores: str,
    waiting: Callable[[], None] = lambda: None,
    asked: Callable[[dict[str, Any]], str] = lambda identity: "",
    leaves: tuple[str, ...] = (),
) -> dict[str, Any]:
    """The summary of the run in `folder`: from its file if it is finished, otherwise from `work`, which runs alone there.

    Args:
        folder: the run's folder.
        identity: the settings that decide the run's result; a folder with another identity is refused.
        work: does the run and returns its summary.
        resume: continue an unfinished run.
        scores: the key of a finished run's summary that its last evaluation adds.
        waiting: called if another process works in the folder.
        asked: the budget of a search by its identity, for the error about another search; "" for others.
        leaves: patterns of files and folders of an unfinished run. They are removed for another run, if the first one ended
            because its budget cannot be met.

    Raises:
        SettingError: the folder holds another run, or an unfinished run and `resume` is not set; or `work` refuses its
            settings. If nothing was done by then, the folder is free again.

    >>> identity = {"seed": 0}
    >>> once(Path("a"), identity, lambda: {"status": "finished"}, resume=False, scores="test")
    {'status': 'finished'}
    """
    with _alone(folder, waiting):
        if leads():
            remove_leftovers(folder, FILES)
            _free(folder, identity, leaves)
            _check_folder(folder, identity, asked)
        summary = finished(folder, scores)
        if summary is not None:
            return summary
        if leads():
            if (folder / RUN_FILE).exists() and not resume and not (folder / UNMET_FILE).exists():
                raise SettingError(f"{folder} holds this run, unfinished; add --resume (resume=True) to continue it")
            write_json(folder / RUN_FILE, identity)
        try:
            return work()
        except (SettingError, DataError):
            if leads():
                _forget(folder)
            raise


def _forget(folder: Path) -> None:
    """Free the folder of a run that was refused before it did anything, for the corrected command."""
    files = [path for path in folder.iterdir() if path.name != LOCK_FILE]
    if all(path.name in FIRST_FILES for path in files):
        for path in files:
            path.unlink()


def _free(folder: Path, identity: dict[str, Any], leaves: tuple[str, ...]) -> None:
    """Remove what a search left whose budget cannot be met, if `identity` is another one."""
    known = (folder / UNMET_FILE).exists() and (folder / RUN_FILE).exists()
    if not known or not difference(read_json(folder / RUN_FILE), identity):
        return
    for path in [path for pattern in (*FIRST_FILES, UNMET_FILE, *leaves) for path in folder.glob(pattern)]:
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _check_folder(folder: Path, identity: dict[str, Any], asked: Callable[[dict[str, Any]], str]) -> None:
    """Raise SettingError if `folder` holds another run, or other files."""
    if (folder / RUN_FILE).exists():
        found = read_json(folder / RUN_FILE)
        differs = difference(found, identity)
        there, here = asked(found), asked(identity)
        if differs and there and here and there != here:
            raise SettingError(
                f"{folder} holds a search for {there}; you ask for {here}; choose another folder with --out (out=)"
            )
        if differs:
            raise SettingError(f"{folder} holds another run: {differs}; choose another folder with --out (out=)")
    elif folder.exists() and any(path.name != LOCK_FILE for path in folder.iterdir()):
        raise SettingError(f"{folder} holds something else; choose another folder with --out (out=)")


def difference(found: Any, wanted: Any, ignore: tuple[str, ...] = (), prefix: str = "") -> str | None:
    """The first setting in which two identities differ, as ``name is a there and b here``; None if they are equal.

    Args:
        found, wanted: the identities.
        ignore: settings that are not compared.
        prefix: is put before the names.

    >>> difference({"seed": 0}, {"seed": 1})
    'seed is 0 there and 1 here'
    """
    for name in sorted({*found, *wanted} - {*ignore}):
        there, here = found.get(name), wanted.get(name)
        if name in LATER and not (name in found and name in wanted):
            continue
        if isinstance(there, dict) and isinstance(here, dict):
            inner = difference(there, here, prefix=f"{prefix}{name}.")
            if inner:
                return inner
        elif there != here and name == FINGERPRINT:
            return "the data set of this name had other images there"
        elif there != here and name == CODE:
            return "the network of these layers had other settings or other code there"
        elif there != here and name == OBJECTS:
            return "the photos of this name had other objects there"
        elif there != here and not (prefix.endswith(f"{NORMALISATION}.") and _alike(there, here)):
            return f"{prefix}{name} is {there!r} there and {here!r} here"
    return None


def _alike(there: Any, here: Any) -> bool:
    """Whether two lists of statistics may be those of the same images, which each machine may decode a little differently."""
    if not (isinstance(there, list) and isinstance(here, list) and len(there) == len(here)):
        return False
    pairs = list(zip(there, here, strict=True))
    return all(isinstance(a, float) and isinstance(b, float) and math.isclose(a, b, rel_tol=1e-3) for a, b in pairs)


def layers_of(network: Network) -> dict[str, Any]:
    """What an identity says of a network: digests of its layers and code, in memory and of what a function builds.

    The function is called for this; random states stay as they are.

    >>> layers_of("resnet20")
    {'built': None}
    """
    if isinstance(network, str):
        return {BUILT: None}
    if isinstance(network, nn.Module):
        return {"network": network_digest(network), CODE: code_digest(network), BUILT: None}
    with fixed_seed():
        made = built(network)
    return {BUILT: network_digest(made), CODE: code_digest(made)}


def finished(folder: Path, scores: str = "test") -> dict[str, Any] | None:
    """The summary of the run in `folder`; None if it is not finished.

    Args:
        folder: the run's folder.
        scores: the key that the last evaluation of a finished run adds.

    >>> finished(Path("missing")) is None
    True
    """
    path = folder / SUMMARY_FILE
    summary = read_json(path) if path.exists() else {}
    return summary if summary.get("status") == "finished" and summary.get(scores) else None


def history(folder: Path) -> list[dict[str, Any]]:
    """The metrics of each epoch of the run in `folder`.

    >>> history(Path("missing"))
    []
    """
    path = folder / METRICS_FILE
    epochs: list[dict[str, Any]] = []
    if not path.exists():
        return epochs
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            with contextlib.suppress(ValueError, AttributeError):  # a killed process may leave half a line
                # with one text for each name: a run may have a million records
                epochs.append({sys.intern(name): value for name, value in parse_json(line).items()})
    return epochs


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object that leanconv wrote.

    Raises:
        FileError: the file cannot be read, or is not a JSON object.
    """
    try:
        value = parse_json(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise FileError(f"{path} is not JSON ({one_line(str(error))}); remove its folder and run again") from error
    if not isinstance(value, dict):
        raise FileError(f"{path} holds no JSON object; remove its folder and run again")
    return value


def failure(error: BaseException) -> str:
    """Why a run failed, in one line.

    >>> failure(ValueError("no images"))
    'ValueError: no images'
    """
    text = " ".join(str(error).split()) or type(error).__name__
    return text if isinstance(error, LeanconvError) else f"{type(error).__name__}: {text}"[:300]


@contextlib.contextmanager
def _alone(folder: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Lock the folder for this process; wait while another process works in it."""
    from filelock import FileLock, Timeout

    folder.mkdir(parents=True, exist_ok=True)
    if not leads():
        yield
        return
    lock = FileLock(folder / LOCK_FILE)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        waiting()
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
