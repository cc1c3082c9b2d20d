import torch


class Voice(torch.nn.Module):
    """Tells whether someone speaks by how loud it is, and was before: a score for each window of 32 ms."""

    def forward(self, samples, level):
        """Hear a window (batch, 256), with the mean power (batch, 1) so far."""
        level = 0.2 * level + 0.8 * samples.square().mean(1, keepdim=True)
        return torch.sigmoid(4 * (torch.log10(level + 1e-9) + 4)), level


def build():
    return Voice()
