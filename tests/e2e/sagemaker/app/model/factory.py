import torch


class Pairs(torch.nn.Module):
    """Add every two neighbours."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(2))

    def forward(self, numbers):
        return numbers.reshape(-1, 4096, 2) @ self.weight


def build():
    return Pairs()
