"""ONNX Runtime as `pip install onnxruntime` and its first example have it.

python -I plain.py PACKAGES MODEL (NAME DTYPE SHAPE FILE)…
"""

# Lambda's runtime client has imported these before it imports a handler.
import json
import logging  # noqa: F401
import sys
import time

_, packages, model, *inputs = sys.argv
sys.path.insert(0, packages)
import numpy as np  # noqa: E402
import onnxruntime as ort  # noqa: E402

session = ort.InferenceSession(model)
feeds = {
    name: np.fromfile(file, dtype).reshape([int(size) for size in shape.split(",")])
    for name, dtype, shape, file in zip(*[iter(inputs)] * 4, strict=True)
}
outputs = session.run(None, feeds)
finished = time.perf_counter()

with open("/proc/self/status", encoding="utf-8") as file:  # noqa: PTH123
    peak = next((int(line.split()[1]) for line in file if line.startswith("VmHWM")), 0)
json.dump({"finished": finished, "peak_kib": peak, "first": outputs[0].astype(float).reshape(-1).tolist()}, sys.stdout)
