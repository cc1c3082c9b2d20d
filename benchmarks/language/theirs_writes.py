"""One fresh process of transformers: load the model, and write. Prints measurements as JSON."""

from __future__ import annotations

import time

BEGAN = time.perf_counter()

import json  # noqa: E402 - the imports are measured
import resource  # noqa: E402
import sys  # noqa: E402

import torch  # noqa: E402
from transformers import AutoModelForCausalLM  # noqa: E402


class Clock:
    """A streamer that notes when each token comes."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def put(self, _: torch.Tensor) -> None:
        """Note the time; the first call has the prompt."""
        self.times.append(time.perf_counter())

    def end(self) -> None:
        """Do nothing: the text is at its end."""


def main() -> None:
    """Load, write and print."""
    path, threads, prompt = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])
    torch.set_num_threads(threads)
    model = AutoModelForCausalLM.from_pretrained(path, dtype="auto").eval()
    opened = time.perf_counter()
    clock = Clock()
    ids = torch.tensor([prompt])
    with torch.inference_mode():
        model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=32,
            min_new_tokens=32,
            do_sample=False,
            pad_token_id=0,
            streamer=clock,
        )
    _, *times = clock.times
    measured = {
        "open": opened - BEGAN,
        "first": times[0] - BEGAN,
        "rate": (len(times) - 1) / (times[-1] - times[0]),
        "tokens": len(times),
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
    print(json.dumps(measured))  # noqa: T201


main()
