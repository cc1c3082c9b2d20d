"""PyTorch, eager: the module that `torch.save` wrote is loaded and called.

python -I eager.py PACKAGES FOLDER MODEL INPUTS
"""

import json
import sys
import time

_, packages, folder, model, inputs = sys.argv
sys.path[:0] = [folder, packages]
import numpy as np  # noqa: E402
import torch  # noqa: E402

module = torch.load(model, weights_only=False, mmap=True)
with open(inputs, encoding="utf-8") as file:  # noqa: PTH123
    described = json.load(file)
feeds = [
    torch.from_numpy(np.fromfile(tensor["file"], tensor["dtype"]).reshape(tensor["shape"]))
    for tensor in described.values()
]
with torch.inference_mode():
    output = module(*feeds)
finished = time.perf_counter()

with open("/proc/self/status", encoding="utf-8") as file:  # noqa: PTH123
    peak = next((int(line.split()[1]) for line in file if line.startswith("VmHWM")), 0)
json.dump({"finished": finished, "peak_kib": peak, "first": output.to(float).reshape(-1).tolist()}, sys.stdout)
