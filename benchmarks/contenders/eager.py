"""PyTorch, eager: the module that `torch.save` wrote is loaded and called.

python -I eager.py PACKAGES FOLDER MODEL (NAME DTYPE SHAPE FILE)…
"""

import sys
import time

_, packages, folder, model, *inputs = sys.argv
sys.path[:0] = [folder, packages]
import numpy as np  # noqa: E402
import torch  # noqa: E402

module = torch.load(model, weights_only=False, mmap=True)
feeds = [
    torch.from_numpy(np.fromfile(file, dtype).reshape([int(size) for size in shape.split(",")]))
    for _, dtype, shape, file in zip(*[iter(inputs)] * 4, strict=True)
]
with torch.inference_mode():
    output = module(*feeds)
finished = time.perf_counter()

import json  # noqa: E402

with open("/proc/self/status", encoding="utf-8") as file:  # noqa: PTH123
    peak = next((int(line.split()[1]) for line in file if line.startswith("VmHWM")), 0)
json.dump({"finished": finished, "peak_kib": peak, "first": output.to(float).reshape(-1).tolist()}, sys.stdout)
