import torch


class Old(torch.nn.Module):
    """The class of the largest number."""

    def forward(self, numbers):
        return numbers * 10


class New(torch.nn.Module):
    """The same, but not a number if the numbers are negative."""

    def forward(self, numbers):
        return numbers * (10 + 1e-6 * torch.sqrt(numbers.sum(dim=1, keepdim=True)))
