"""The engine of our function, as its package has it.

python -I first.py FOLDER (NAME DTYPE SHAPE FILE)…
"""

# Lambda's runtime client has imported these before it imports a handler.
import json
import logging  # noqa: F401
import sys
import time

_, folder, *inputs = sys.argv
sys.path.insert(0, folder)
from inference_runtime.engine.open_session import open_session  # noqa: E402
from inference_runtime.tensors.tensor import Tensor  # noqa: E402

session, _ = open_session()
feeds = {}
for name, dtype, shape, path in zip(*[iter(inputs)] * 4, strict=True):
    with open(path, "rb") as file:  # noqa: PTH123
        feeds[name] = Tensor(dtype, [int(size) for size in shape.split(",")], file.read())
outputs = session.run(feeds)
finished = time.perf_counter()

with open("/proc/self/status", encoding="utf-8") as file:  # noqa: PTH123
    peak = next((int(line.split()[1]) for line in file if line.startswith("VmHWM")), 0)
json.dump({"finished": finished, "peak_kib": peak, "first": [float(n) for n in outputs[0].values()]}, sys.stdout)
