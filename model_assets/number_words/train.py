"""Train the networks: `python train.py [folder]`. Takes a minute, and gives the same bytes on every run.

On another processor or with another PyTorch the last bits may differ, and with them the hashes.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import numpy as np
import torch
from data import END, MOST_WORDS, PAD, START, TOKENS, digits, training, words
from factory import decoder, encoder
from safetensors.torch import save_file
from torch.nn.functional import cross_entropy

STEPS, BATCH = 600, 96


def targets(numbers: np.ndarray) -> torch.Tensor:
    """Return the words of numbers as tokens, from the start to the end, filled up."""
    rows = np.full((len(numbers), MOST_WORDS + 2), PAD, np.int64)
    for row, number in zip(rows, numbers, strict=True):
        tokens = [START, *(TOKENS[word] for word in words(int(number))), END]
        row[: len(tokens)] = tokens
    return torch.from_numpy(rows)


def train() -> tuple[torch.nn.Module, torch.nn.Module]:
    """Return the trained networks; numbers for evaluation and calibration take no part in it."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(mode=True)
    reader, writer = encoder().train(), decoder().train()
    parameters = [*reader.parameters(), *writer.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-3, total_steps=STEPS)
    for batch in np.split(training(STEPS * BATCH), STEPS):
        expected = targets(batch)
        logits = writer.all_at_once(expected[:, :-1], reader(torch.from_numpy(digits(batch))))
        loss = cross_entropy(logits.flatten(0, 1), expected[:, 1:].flatten(), ignore_index=PAD)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
    return reader.eval(), writer.eval()


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent
    for name, network in zip(("encoder", "decoder"), train(), strict=True):
        file = folder / f"{name}.safetensors"
        save_file({key: tensor.contiguous() for key, tensor in network.state_dict().items()}, file)
        print(f"{file.name}: sha256 {hashlib.sha256(file.read_bytes()).hexdigest()}")  # noqa: T201
