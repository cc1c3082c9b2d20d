"""Train the network again, with the digits of the data set and those that people have labelled."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from data import HELD_OUT, digits, labelled
from factory import build
from safetensors.torch import load_file, save_file
from torch.nn.functional import cross_entropy

EPOCHS = 2
BATCH = 64

torch.manual_seed(0)
torch.set_num_threads(1)
old_images, old_labels = (part[:-HELD_OUT] for part in digits())
new_images, new_labels = labelled(Path(os.environ["LABELS"]))
# As many new digits as old ones: there are few.
chosen = np.resize(np.arange(len(new_labels)), len(old_labels)) if len(new_labels) else np.arange(0)
images = torch.from_numpy(np.concatenate([old_images, new_images[chosen]])).to(torch.float32)
labels = torch.from_numpy(np.concatenate([old_labels, new_labels[chosen]]))
model = build()
model.load_state_dict(load_file(Path(__file__).with_name("weights.safetensors")))
model.train()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
for _ in range(EPOCHS):
    for rows in torch.randperm(len(images)).split(BATCH):
        loss = cross_entropy(model(images[rows]), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
print(f"trained with {len(old_labels)} digits and {len(new_labels)} labels: loss {loss.item():.3f}")
save_file({name: tensor.contiguous() for name, tensor in model.eval().state_dict().items()}, os.environ["WEIGHTS"])
