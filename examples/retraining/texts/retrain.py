"""Train the network again, with the sentences and those texts that people have labelled.

Without `LABELS`, it is trained from nothing: `WEIGHTS=weights.safetensors python retrain.py` makes the first weights.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from data import HELD_OUT, encoded, labelled, sentences, texts
from factory import build
from safetensors.torch import load_file, save_file
from torch.nn.functional import cross_entropy

EPOCHS_AT_FIRST, EPOCHS = 40, 10
BATCH = 64

torch.manual_seed(0)
torch.set_num_threads(1)
old, old_labels = texts(sentences()[:-HELD_OUT])
model = build()
if "LABELS" in os.environ:
    new, new_labels = labelled(Path(os.environ["LABELS"]))
    model.load_state_dict(load_file(Path(__file__).with_name("weights.safetensors")))
    epochs = EPOCHS
else:
    new, new_labels = [], np.zeros(0, np.int64)
    epochs = EPOCHS_AT_FIRST
# As many new texts as old ones: there are few.
chosen = np.resize(np.arange(len(new)), len(old)) if new else np.arange(0)
inputs = {name: torch.from_numpy(array) for name, array in encoded(old + [new[place] for place in chosen]).items()}
labels = torch.from_numpy(np.concatenate([old_labels, new_labels[chosen]]))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=1.0 if new else 1e-2)
for _ in range(epochs):
    for rows in torch.randperm(len(labels)).split(BATCH):
        loss = cross_entropy(model(**{name: array[rows] for name, array in inputs.items()}), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
print(f"trained with {len(old)} texts and {len(new)} labels: loss {loss.item():.3f}")
save_file({name: tensor.contiguous() for name, tensor in model.eval().state_dict().items()}, os.environ["WEIGHTS"])
