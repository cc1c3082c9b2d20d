"""Convert a model that `save.py` saved to 4 bits, as onnxruntime-genai reads it: `genai_save.py MODEL FOLDER`."""

from __future__ import annotations

import sys

from onnxruntime_genai.models import builder
from onnxruntime_genai.models.builders.base import Model

KIND = ("int4", "cpu")

Model.save_processing = lambda *_: None  # random weights have no tokenizer
source, target = sys.argv[1:]
options = builder.parse_extra_options(None, source, target, *KIND, f"{target}.cache", [])
builder.create_model(None, source, target, *KIND, f"{target}.cache", **options)
