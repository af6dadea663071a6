"""Serve an exported network: ``python serve_onnx.py net.onnx 8000``, then ``curl --data-binary @cat.jpg localhost:8000``."""
# Needs onnxruntime, numpy and pillow; neither leanconv nor torch.

import io
import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

path = Path(sys.argv[1])
options = path.with_suffix(".session.json")  # keeps shared weights shared in memory
session = onnxruntime.InferenceSession(path, **(json.loads(options.read_text()) if options.exists() else {}))
told = session.get_modelmeta().custom_metadata_map.get("task")
if told is None:
    sys.exit(
        f"{path} holds no task: classes, mean, std and image_size. Export it again and give them: "
        "leanconv export NETWORK --classes cat,dog --like timm -o files/"
    )
task = json.loads(told)
size, mode = tuple(task["image_size"][::-1]), "RGB" if len(task["mean"]) == 3 else "L"


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        image = ImageOps.exif_transpose(Image.open(io.BytesIO(self.rfile.read(int(self.headers["Content-Length"])))))
        image = ImageOps.fit(image.convert(mode), size, Image.BILINEAR, bleed=0 if image.size == size else 1 / 16)
        pixels = np.asarray(image, np.float32).reshape(*task["image_size"], -1) / 255
        batch = ((pixels - task["mean"]) / task["std"]).transpose(2, 0, 1)[None].astype(np.float32)
        scores = np.exp((logits := session.run(None, {session.get_inputs()[0].name: batch})[0][0]) - logits.max())
        best = int(scores.argmax())
        label = task["classes"][best] if task["classes"] else str(best)  # without names, the number of the output
        answer = {"label": label, "confidence": float(scores.max() / scores.sum())}
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())


ThreadingHTTPServer(("127.0.0.1", int(sys.argv[2])), Handler).serve_forever()
