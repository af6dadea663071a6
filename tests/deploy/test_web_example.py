"""examples/web in a real Chromium: it reads the task from the file, prepares images as leanconv does, and classifies them."""

from __future__ import annotations

import json
import queue
import shutil
import subprocess
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import leanconv as lc
from leanconv.deploy.images import image_tensor
from tests.gates.tree import ROOT

onnxruntime = pytest.importorskip("onnxruntime")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
RUNTIME = ROOT / "examples" / "web" / "node_modules" / "onnxruntime-web"
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
TASK = lc.Task((0.5, 0.4, 0.3), (0.25, 0.3, 0.2), (12, 16), ("ant", "bee, the", "cat"))
SCRIPT = """<script type="module">
import * as example from "./classify.js";
const image = async (name) => createImageBitmap(await (await fetch(name)).blob());
const bytes = async (name) => new Uint8Array(await (await fetch(name)).arrayBuffer());
const send = (found) => fetch("/found", { method: "POST", body: JSON.stringify(found) });
try { await send(await (async () => { %s })()); } catch (error) { await send({ error: error.message }); }
</script>"""


class Handler(SimpleHTTPRequestHandler):
    found: queue.Queue[Any] = queue.Queue()

    def do_POST(self) -> None:
        self.found.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """A served copy of the example with an exported file, one without a task, and an image."""
    folder = tmp_path_factory.mktemp("web")
    for name in ("classify.js", "index.html"):
        shutil.copy(ROOT / "examples" / "web" / name, folder)
    if RUNTIME.exists():
        (folder / "node_modules").symlink_to(RUNTIME.parent)
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3),
        torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(8, 3),
    ).eval()
    with pytest.warns(lc.core.errors.LeanconvWarning, match=r"--classes and --like"):
        lc.export(model, folder / "bare.onnx", example=torch.randn(2, 3, 12, 16))
    lc.set_task(model, TASK)
    lc.export(model, folder / "net.onnx")
    rows = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8)
    Image.fromarray(rows).save(folder / "image.png")
    server = ThreadingHTTPServer(("127.0.0.1", 0), lambda *args: Handler(*args, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield folder, f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def run(site: tuple[Path, str], script: str, page: str = "<!doctype html>") -> Any:
    """What `script` returns in the browser, on `page`."""
    folder, address = site
    (folder / "test.html").write_text(page + SCRIPT % script)
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}", "--no-first-run"]
    browser = subprocess.Popen(
        [CHROMIUM, *options, "--remote-debugging-port=0", f"{address}/test.html"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        return Handler.found.get(timeout=60)
    finally:
        browser.terminate()
        browser.wait(20)


def test_it_reads_the_task_and_prepares_images_as_leanconv_does(site: tuple[Path, str]) -> None:
    found = run(
        site,
        """const task = example.taskOf(await bytes("net.onnx"));
        const pixels = example.pixelsOf(await image("image.png"), task.image_size);
        let missing = ""; try { example.taskOf(await bytes("bare.onnx")); } catch (error) { missing = error.message; }
        return { task, missing, input: [...example.inputOf(pixels, task)],
                 grey: [...example.inputOf(pixels, { mean: [0], std: [1] })] };""",
    )
    assert lc.Task.from_json(found["task"]) == TASK
    wanted = image_tensor(site[0] / "image.png", TASK).flatten().numpy()
    np.testing.assert_allclose(found["input"], wanted, atol=1e-5)
    grey = np.asarray(Image.open(site[0] / "image.png").convert("L"), np.float32).ravel() / 255
    np.testing.assert_allclose(found["grey"], grey, atol=1.01 / 255)
    assert "holds no task" in found["missing"] and "--classes" in found["missing"]


@pytest.mark.skipif(not RUNTIME.exists(), reason="run `npm install` in examples/web to test with onnxruntime-web")
def test_it_classifies_as_onnxruntime_does(site: tuple[Path, str]) -> None:
    page = (site[0] / "index.html").read_text()
    found = run(
        site,
        """while (!window.classify) {
             const text = document.getElementById("answer").textContent;
             if (!/Loading/.test(text)) throw new Error(text);
             await new Promise((done) => setTimeout(done, 50));
           }
           return window.classify(await image("image.png"));""",
        page,
    )
    assert "error" not in found, found["error"]
    session = onnxruntime.InferenceSession(site[0] / "net.onnx")
    x = image_tensor(site[0] / "image.png", TASK)
    scores = torch.softmax(torch.from_numpy(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])[0], 0)
    assert found["label"] == TASK.classes[int(scores.argmax())]
    assert found["confidence"] == pytest.approx(float(scores.max()), abs=1e-4)
