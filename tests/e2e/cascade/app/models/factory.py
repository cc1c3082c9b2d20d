import torch


def sums(factor):
    layer = torch.nn.Linear(4, 2, bias=False)
    layer.weight.data = factor * torch.tensor([[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0]])
    return layer


def small():
    """Add the first two numbers, and the last two."""
    return sums(1)


def large():
    """Do it ten times as well."""
    return sums(10)
