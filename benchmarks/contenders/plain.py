"""ONNX Runtime as `pip install onnxruntime` and its first example have it.

python -I plain.py PACKAGES MODEL INPUTS
"""

import json
import sys
import time

_, packages, model, inputs = sys.argv
sys.path.insert(0, packages)
import numpy as np  # noqa: E402
import onnxruntime as ort  # noqa: E402

session = ort.InferenceSession(model)
with open(inputs, encoding="utf-8") as file:  # noqa: PTH123
    described = json.load(file)
feeds = {
    name: np.fromfile(tensor["file"], tensor["dtype"]).reshape(tensor["shape"]) for name, tensor in described.items()
}
outputs = session.run(None, feeds)
finished = time.perf_counter()

with open("/proc/self/status", encoding="utf-8") as file:  # noqa: PTH123
    peak = next((int(line.split()[1]) for line in file if line.startswith("VmHWM")), 0)
json.dump({"finished": finished, "peak_kib": peak, "first": outputs[0].astype(float).reshape(-1).tolist()}, sys.stdout)
