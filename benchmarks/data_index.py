"""Time, processor time and memory of opening large data sets: rows of parquet, image files, WebDataset shards.

    python benchmarks/data_index.py --folder DIR --results results/data_index-opening-DATE.json

Tiny images are generated in DIR first (a few GiB for the default sizes). Each data set is opened in a process of its own, whose
peak of memory is measured; shards are opened twice, without and with the index in the cache. The files were just written, so
they come from the page cache of the system.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

CLASSES = 1000
PROGRAM = """
import json, resource, sys, time
import torch
from leanconv.data import encoded, open_data, gather
gather.MEMORY_LIMIT = 0  # images of ImageNet's size would not fit into memory: keep these encoded too
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
start, used = time.perf_counter(), time.process_time()
data = open_data(sys.argv[1], test_split=0.1)
seconds, cpu = time.perf_counter() - start, time.process_time() - used
assert isinstance(data.train[len(data.train) // 2][0], torch.Tensor)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
images = len(data.train) + len(data.test)
print(json.dumps({"images": images, "seconds": seconds, "cpu_seconds": cpu, "bytes": peak - before, "peak_bytes": peak}))
"""


def image(number: int) -> bytes:
    """A small JPEG file; a hundred different ones."""
    from PIL import Image

    if number not in _made:
        file = io.BytesIO()
        Image.new("RGB", (8, 8), (number, 255 - number, 3 * number % 256)).save(file, "JPEG")
        _made[number] = file.getvalue()
    return _made[number]


_made: dict[int, bytes] = {}


def parquet(folder: Path, rows: int) -> Path:
    """`rows` rows in files of 100,000, as Hugging Face writes them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    files = max(1, rows // 100_000)
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    for number in range(files):
        own = range(number * rows // files, (number + 1) * rows // files)
        images = pa.array([{"bytes": image(row % 100), "path": f"{row}.jpg"} for row in own], kind)
        table = pa.table({"image": images, "label": pa.array([row % CLASSES for row in own], pa.int64())})
        folder.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, folder / f"train-{number:05}-of-{files:05}.parquet", row_group_size=1000)
    return folder


def files(folder: Path, count: int) -> Path:
    """`count` files in a folder for each class."""
    for number in range(CLASSES):
        (folder / f"class{number:04}").mkdir(parents=True, exist_ok=True)
    for row in range(count):
        (folder / f"class{row % CLASSES:04}" / f"{row:08}.jpg").write_bytes(image(row % 100))
    return folder


def shards(folder: Path, count: int, images: int) -> Path:
    """`count` shards with `images` images each."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        with tarfile.open(folder / f"train-{number:05}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
            for row in range(number * images, (number + 1) * images):
                for end, content in ((".cls", str(row % CLASSES).encode()), (".jpg", image(row % 100))):
                    member = tarfile.TarInfo(f"{row:08}{end}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    return folder


def opened(place: Path, cache: Path) -> dict[str, Any]:
    """Seconds and bytes of opening `place` in a new process."""
    environment = os.environ | {"XDG_CACHE_HOME": str(cache)}
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(place)], capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def main() -> None:
    """Generate, open and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--results", type=Path)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--files", type=int, default=300_000)
    parser.add_argument("--shards", type=int, default=100)
    parser.add_argument("--images", type=int, default=10_000, help="in each shard")
    parser.add_argument("--note", help="what a reader should know, for example another load on the machine")
    asked = parser.parse_args()
    made = {
        "parquet": lambda place: parquet(place, asked.rows),
        "files": lambda place: files(place, asked.files),
        "shards": lambda place: shards(place, asked.shards, asked.images),
    }
    rows = []
    for name, make in made.items():
        place = asked.folder / name
        if not place.exists():
            start = time.perf_counter()
            make(place)
            print(f"{name}: written in {time.perf_counter() - start:.0f} s", file=sys.stderr)
        for kind in (name, *(["shards, index in the cache"] if name == "shards" else [])):
            rows.append({"source": kind} | opened(place, asked.folder / "cache"))
            print(rows[-1], file=sys.stderr)
    if asked.results:
        from leanconv.core.atomic import write_json
        from leanconv.core.machine import provenance

        command = f"python benchmarks/data_index.py --rows {asked.rows} --files {asked.files} --shards {asked.shards}"
        settings = {"classes": CLASSES, "images_per_shard": asked.images}
        head = {**provenance(f"{command} --images {asked.images}"), "kind": "data_index", "settings": settings}
        notes = {"notes": asked.note} if asked.note else {}
        write_json(asked.results, {**head, "n": 1, "seeds": [], **notes, "rows": rows})


if __name__ == "__main__":
    main()
