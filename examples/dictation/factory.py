"""Whisper tiny.en as two graphs: an encoder that hears a recording once, and a decoder that writes token by token.

The network is that of Radford et al. 2022, https://arxiv.org/abs/2212.04356.
"""

import math

import torch
from torch import nn
from torch.nn.functional import conv1d, gelu, linear, pad, scaled_dot_product_attention

RATE, SECONDS = 16_000, 30
WINDOW, HOP, BANDS = 400, 160, 80
SIZE, HEADS, LAYERS = 384, 6, 4
TOKENS, PLACES = 51_864, 448
FRAMES = RATE * SECONDS // HOP // 2


class LogMel(nn.Module):
    """From samples (batch, samples) to 80 bands of 30 seconds, (batch, 80, 3000), filled up with silence."""

    def __init__(self):
        super().__init__()
        bins = WINDOW // 2 + 1
        angles = 2 * math.pi / WINDOW * torch.outer(torch.arange(bins), torch.arange(WINDOW)).to(torch.float64)
        window = torch.hann_window(WINDOW, dtype=torch.float64)
        waves = torch.cat((angles.cos(), angles.sin())) * window
        self.register_buffer("waves", waves.unsqueeze(1).to(torch.float32), persistent=False)
        # Slaney's bands: linear below 1,000 Hz, which is the mel 15, and logarithmic above. All have the same area.
        highest = 15 + 27 * math.log(RATE / 2 / 1000) / math.log(6.4)
        mels = torch.linspace(0, highest, BANDS + 2, dtype=torch.float64)
        above = 1000 * torch.exp((mels - 15).clamp(min=0) * math.log(6.4) / 27)
        edges = mels.clamp(max=15) * 200 / 3 + above - 1000
        hertz = torch.linspace(0, RATE / 2, bins, dtype=torch.float64)
        low, middle, high = (edges[start : start + BANDS, None] for start in range(3))
        bands = torch.minimum((hertz - low) / (middle - low), (high - hertz) / (high - middle)).clamp(min=0)
        self.register_buffer("bands", (bands * 2 / (high - low)).to(torch.float32), persistent=False)

    def forward(self, samples):
        """Return features of each 10 ms."""
        whole = torch.cat((samples, samples.new_zeros(samples.shape[0], RATE * SECONDS)), 1)[:, : RATE * SECONDS]
        padded = pad(whole.unsqueeze(1), (WINDOW // 2, WINDOW // 2), mode="reflect")
        cosines, sines = conv1d(padded, self.waves, stride=HOP)[:, :, :-1].chunk(2, dim=1)
        features = torch.log10((self.bands @ (cosines * cosines + sines * sines)).clamp(min=1e-10))
        return (torch.maximum(features, features.amax((1, 2), keepdim=True) - 8) + 4) / 4


class Attention(nn.Module):
    """Attention of several heads: to what it takes itself, or to keys and values that it is given."""

    def __init__(self, parts):
        super().__init__()
        self.norm = nn.LayerNorm(SIZE)
        self.inputs = nn.Linear(SIZE, parts * SIZE)
        self.out = nn.Linear(SIZE, SIZE)

    def forward(self, x, keys, values):
        """Attend from queries to keys and values, all (batch, 6, places, 64)."""
        return self.out(scaled_dot_product_attention(x, keys, values).transpose(1, 2).flatten(2))


class Layer(nn.Module):
    """A layer of either graph."""

    def __init__(self, cross):
        super().__init__()
        self.own = Attention(3)
        self.cross = Attention(1) if cross else None
        self.norm, self.wide, self.narrow = nn.LayerNorm(SIZE), nn.Linear(SIZE, 4 * SIZE), nn.Linear(4 * SIZE, SIZE)

    def forward(self, x, past=None, memory=None):
        """Return the output, and the keys and values of all that was read."""
        queries, *known = heads(self.own.inputs(self.own.norm(x)), 3)
        if past is not None:
            known = [torch.cat((before, new), 2) for before, new in zip(past, known, strict=True)]
        x = x + self.own(queries, *known)
        if memory is not None:
            x = x + self.cross(*heads(self.cross.inputs(self.cross.norm(x)), 1), *memory)
        return x + self.narrow(gelu(self.wide(self.norm(x)))), known


class Encoder(nn.Module):
    """From samples to the keys and values that each layer of the decoder attends to, (batch, 6, 1500, 64)."""

    def __init__(self):
        super().__init__()
        self.features = LogMel()
        self.first = nn.Conv1d(BANDS, SIZE, 3, padding=1)
        self.second = nn.Conv1d(SIZE, SIZE, 3, stride=2, padding=1)
        self.places = nn.Parameter(torch.zeros(FRAMES, SIZE))
        self.layers = nn.ModuleList(Layer(cross=False) for _ in range(LAYERS))
        self.norm = nn.LayerNorm(SIZE)
        # They are the decoder's. Here, they are computed once for a recording.
        self.memory = nn.ModuleList(nn.Linear(SIZE, 2 * SIZE) for _ in range(LAYERS))

    def forward(self, samples):
        """Hear a recording."""
        x = gelu(self.second(gelu(self.first(self.features(samples))))).transpose(1, 2) + self.places
        for layer in self.layers:
            x, _ = layer(x)
        x = self.norm(x)
        return tuple(part for layer in self.memory for part in heads(layer(x), 2))


class Decoder(nn.Module):
    """From the newest token (batch, 1) and its place (batch,) to scores of the next one, and longer caches."""

    def __init__(self):
        super().__init__()
        self.tokens = nn.Embedding(TOKENS, SIZE)
        self.places = nn.Embedding(PLACES, SIZE)
        self.layers = nn.ModuleList(Layer(cross=True) for _ in range(LAYERS))
        self.norm = nn.LayerNorm(SIZE)

    def forward(self, tokens, place, *known):
        """Read a token; `known` has the keys and values of the recording, and then those of the tokens before."""
        x = self.tokens(tokens) + self.places(place).unsqueeze(1)
        memory, past = known[: 2 * LAYERS], known[2 * LAYERS :]
        caches = []
        for index, layer in enumerate(self.layers):
            pair = slice(2 * index, 2 * index + 2)
            x, longer = layer(x, past[pair], memory[pair])
            caches += longer
        return linear(self.norm(x[:, -1]), self.tokens.weight), *caches


def heads(x, parts):
    """Return queries, keys or values that one product made, each (batch, 6, places, 64)."""
    return [part.unflatten(2, (HEADS, -1)).transpose(1, 2) for part in x.chunk(parts, dim=2)]


def encoder():
    """Return the encoder, still without its weights."""
    return Encoder()


def decoder():
    """Return the decoder, still without its weights."""
    return Decoder()
