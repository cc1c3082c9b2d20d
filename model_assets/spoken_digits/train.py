"""Train the network: `python train.py [weights.safetensors]`. Takes minutes, and gives the same bytes on every run.

On another processor or with another PyTorch the last bits may differ, and with them the hash. It needs eSpeak NG.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import numpy as np
import torch
from data import evaluation, padded
from factory import build
from safetensors.torch import save_file
from speech import ACCENTS, VOICES, Utterance, recorded, utterances
from torch.nn.functional import ctc_loss

from inference_runtime.stages.builtin.vocabulary import collapsed, read_vocabulary

EPOCHS = 24
UTTERANCES, BATCH = 2_400, 24


def train() -> torch.nn.Module:
    """Return the trained network; the voices of the evaluation take no part in it."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(mode=True)
    random = np.random.default_rng(0)
    # Those of like length share a batch.
    speech = sorted(utterances(UTTERANCES, ACCENTS, VOICES, 0), key=lambda one: len(one.samples))
    batches = [speech[first : first + BATCH] for first in range(0, len(speech), BATCH)]
    model = build().train()
    with torch.no_grad():
        parts = [model.features(_samples(batch, random)) for batch in batches[::8]]
        features = torch.cat([part.transpose(0, 1).flatten(1) for part in parts], 1)
        model.mean.copy_(features.mean(1, keepdim=True))
        model.deviation.copy_(features.std(1, keepdim=True))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=EPOCHS * len(batches))
    for _ in range(EPOCHS):
        for place in random.permutation(len(batches)):
            loss = _loss(model, batches[place], random)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
    return model.eval()


def _samples(batch: list[Utterance], random: np.random.Generator) -> torch.Tensor:
    """Return recordings of utterances, with other noise each time."""
    return torch.from_numpy(padded([recorded(one.samples, random) for one in batch])["samples"])


def _loss(model: torch.nn.Module, batch: list[Utterance], random: np.random.Generator) -> torch.Tensor:
    scores = model(_samples(batch, random)).log_softmax(2).transpose(0, 1)
    digits = torch.tensor([int(digit) + 1 for one in batch for digit in one.digits])
    # All frames count, silence at the end too: functions fill recordings up with it.
    frames = torch.full((len(batch),), scores.shape[0])
    return ctc_loss(scores, digits, frames, torch.tensor([len(one.digits) for one in batch]))


@torch.inference_mode()
def accuracy(model: torch.nn.Module) -> float:
    """Return the share of the recordings of the evaluation whose digits the network hears."""
    vocabulary = read_vocabulary(str(Path(__file__).with_name("vocabulary.txt")))
    right = [
        vocabulary.text(collapsed(row, 0)) == label
        for inputs, labels, _ in evaluation()
        for row, label in zip(model(torch.from_numpy(inputs["samples"])).argmax(2).tolist(), labels, strict=True)
    ]
    return sum(right) / len(right)


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("weights.safetensors")
    trained = train()
    save_file({name: tensor.contiguous() for name, tensor in trained.state_dict().items()}, target)
    digest = hashlib.sha256(target.read_bytes()).hexdigest()
    print(f"{target.name}: accuracy {accuracy(trained):.4f}, sha256 {digest}")  # noqa: T201
