"""One fresh process of transformers: load the model, and decide once. Prints measurements as JSON."""

from __future__ import annotations

import time

BEGAN = time.perf_counter()

import json  # noqa: E402 - the imports are measured
import resource  # noqa: E402
import sys  # noqa: E402

import torch  # noqa: E402
from transformers import AutoModelForCausalLM  # noqa: E402


def main() -> None:
    """Load, decide and print."""
    path, threads, prompt = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])
    torch.set_num_threads(threads)
    model = AutoModelForCausalLM.from_pretrained(path, dtype="auto").eval()
    opened = time.perf_counter()
    with torch.inference_mode():
        model(input_ids=torch.tensor([prompt]), use_cache=False, logits_to_keep=1)
    answered = time.perf_counter()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"open": opened - BEGAN, "first": answered - BEGAN, "peak": peak}))  # noqa: T201


main()
