"""Save a model of the same shape as transformers reads it, in a type: `save.py FOLDER float32`."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

sys.path.insert(0, str(Path(__file__).parent))

from decisions import HALF_A_BILLION

torch.manual_seed(0)
Qwen2ForCausalLM(Qwen2Config(**HALF_A_BILLION)).to(getattr(torch, sys.argv[2])).save_pretrained(sys.argv[1])
