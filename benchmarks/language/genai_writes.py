"""One fresh process of onnxruntime-genai: load the model, and write. Prints measurements as JSON."""

from __future__ import annotations

import time

BEGAN = time.perf_counter()

import json  # noqa: E402 - the imports are measured
import resource  # noqa: E402
import sys  # noqa: E402

import onnxruntime_genai  # noqa: E402


def main() -> None:
    """Load, write and print."""
    path, threads, prompt = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])
    config = onnxruntime_genai.Config(path)
    config.overlay(json.dumps({"model": {"decoder": {"session_options": {"intra_op_num_threads": threads}}}}))
    model = onnxruntime_genai.Model(config)
    opened = time.perf_counter()
    parameters = onnxruntime_genai.GeneratorParams(model)
    length = len(prompt) + 32
    parameters.set_search_options(do_sample=False, max_length=length, min_length=length)
    generator = onnxruntime_genai.Generator(model, parameters)
    generator.append_tokens([prompt])
    times = []
    for _ in range(32):
        generator.generate_next_token()
        times.append(time.perf_counter())
    measured = {
        "open": opened - BEGAN,
        "first": times[0] - BEGAN,
        "rate": (len(times) - 1) / (times[-1] - times[0]),
        "tokens": len(times),
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
    print(json.dumps(measured))  # noqa: T201


main()
