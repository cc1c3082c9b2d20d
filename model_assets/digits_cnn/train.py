"""Train the network: `python train.py [weights.safetensors]`. Takes a minute, and gives the same bytes on every run.

On another processor or with another PyTorch the last bits may differ, and with them the hash.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import torch
from data import evaluation, training
from factory import build
from safetensors.torch import save_file
from torch.nn.functional import cross_entropy, grid_sample

EPOCHS = 30
BATCH = 64


def vary(images: torch.Tensor) -> torch.Tensor:
    """Shift, turn, scale and shear each image a little; (batch, 8, 8) float from 0 to 16."""
    count = len(images)
    identity = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]).expand(count, 2, 3)
    change = torch.rand(count, 2, 3) * 2.0 - 1.0
    affine = identity + change * torch.tensor([0.15, 0.15, 0.2])
    grid = torch.nn.functional.affine_grid(affine, [count, 1, 8, 8], align_corners=False)
    return grid_sample(images.unsqueeze(1), grid, align_corners=False).squeeze(1)


def train() -> torch.nn.Module:
    """Return the trained network; the held-out digits take no part in it."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(mode=True)
    arrays = training()
    images, labels = torch.from_numpy(arrays[0]).to(torch.float32), torch.from_numpy(arrays[1])
    model = build().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=1e-2)
    steps = -(-len(images) // BATCH) * EPOCHS
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=steps)
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(images)).split(BATCH):
            loss = cross_entropy(model(vary(images[rows])), labels[rows], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval()


@torch.inference_mode()
def accuracy(model: torch.nn.Module) -> float:
    """Return the share of held-out digits that the network reads right."""
    right = [
        model(torch.from_numpy(inputs["images"])).argmax(1) == torch.from_numpy(labels)
        for inputs, labels, _ in evaluation()
    ]
    return float(torch.cat(right).to(torch.float32).mean())


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("weights.safetensors")
    trained = train()
    # How many batches the norms have seen is of no use afterwards, but belongs to the state.
    save_file({name: tensor.contiguous() for name, tensor in trained.state_dict().items()}, target)
    digest = hashlib.sha256(target.read_bytes()).hexdigest()
    print(f"{target.name}: accuracy {accuracy(trained):.4f}, sha256 {digest}")  # noqa: T201
