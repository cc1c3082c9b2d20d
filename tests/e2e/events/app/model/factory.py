import torch


def build():
    """Tell three classes apart by the first two numbers."""
    layer = torch.nn.Linear(4, 3)
    layer.weight.data = torch.tensor([[-2.0, -1.0, 0.0, 0.0], [0.0, 0.0, 0.5, 0.0], [2.0, 1.0, 0.0, 0.0]])
    layer.bias.data = torch.zeros(3)
    return layer
