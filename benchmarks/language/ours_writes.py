"""One fresh process of ours: open the model as a function does, and write. Prints measurements as JSON."""

from __future__ import annotations

import time

BEGAN = time.perf_counter()

import json  # noqa: E402 - the imports are measured
import resource  # noqa: E402
import sys  # noqa: E402
from array import array  # noqa: E402

from inference_runtime.engine.drivers.open_driver import open_driver  # noqa: E402
from inference_runtime.engine.onnxruntime_c import CSession  # noqa: E402
from inference_runtime.engine.session import Threads  # noqa: E402
from inference_runtime.tensors.tensor import Tensor  # noqa: E402


def main() -> None:
    """Open, write and print."""
    path, threads, prompt = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])
    writer = open_driver(path, lambda graph, _: CSession(graph, Threads(threads, spin=True)))
    opened = time.perf_counter()
    shape = (1, len(prompt))
    inputs = {"input_ids": array("q", prompt), "attention_mask": array("q", [1] * len(prompt))}
    steps = writer.stream({name: Tensor("int64", shape, values.tobytes()) for name, values in inputs.items()})
    times = [time.perf_counter() for _ in steps]
    measured = {
        "open": opened - BEGAN,
        "first": times[0] - BEGAN,
        "rate": (len(times) - 1) / (times[-1] - times[0]),
        "tokens": len(times),
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
    print(json.dumps(measured))  # noqa: T201


main()
