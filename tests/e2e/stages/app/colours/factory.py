import torch


class Colours(torch.nn.Module):
    """Finds red and green in 16 squares of 8 x 8 pixels: as boxes, each its square, and for each square as a class."""

    def __init__(self):
        super().__init__()
        middles = torch.arange(4) * 8.0 + 4
        y, x = torch.meshgrid(middles, middles, indexing="ij")
        self.register_buffer("boxes", torch.stack([x, y, torch.full_like(x, 8), torch.full_like(x, 8)]).reshape(4, 16))

    def forward(self, image):
        means = torch.nn.functional.avg_pool2d(image.permute(0, 3, 1, 2).float(), 8) / 255
        found = means[:, :2]
        nothing = torch.full_like(found[:, :1], 0.5)
        boxes = self.boxes + torch.zeros_like(found[:, :1]).reshape(-1, 1, 16)
        return torch.cat((boxes, found.reshape(-1, 2, 16)), 1), torch.cat((nothing, found), 1)


def build():
    return Colours()
