"""The language model that writes, in blocks of 4 bits. Its weights are random, so that the gate asks for nothing."""

from cdk_inference.model import (
    Evaluation,
    Graph,
    Graphs,
    Greedy,
    ModelRecipe,
    Provenance,
    TensorSpec,
    TorchModule,
    WeightOnly,
)

STEPS = 32
CACHES = [f"{layer}.{kind}" for layer in range(24) for kind in ("key", "value")]
PROMPTS = (
    TensorSpec("input_ids", "int64", ("batch", "tokens")),
    TensorSpec("attention_mask", "int64", ("batch", "tokens")),
)
WRITER = Graph(
    TorchModule("writer.py:build"),
    inputs=(
        TensorSpec("input_ids", "int64", ("batch", "steps")),
        TensorSpec("attention_mask", "int64", ("batch", "past + steps")),
        TensorSpec("position_ids", "int64", ("batch", "steps")),
        *(TensorSpec(f"past.{name}", "float32", ("batch", 2, "past", 64)) for name in CACHES),
    ),
    outputs=(
        TensorSpec("logits", "float32", ("batch", 151_936)),
        *(TensorSpec(f"present.{name}", "float32", ("batch", 2, "past + steps", 64)) for name in CACHES),
    ),
)
RECIPE = ModelRecipe(
    name="half-a-billion-writes",
    source=Graphs(
        {"writer": WRITER},
        driver=Greedy(
            end=(151_645, 151_643),
            max_steps=STEPS,
            min_steps=STEPS - 1,  # as the rival, whatever random weights say
            tokens="input_ids",
            position="position_ids",
            prompt="input_ids",
            mask="attention_mask",
            states={f"present.{name}": f"past.{name}" for name in CACHES},
        ),
    ),
    inputs=PROMPTS,
    outputs=(
        TensorSpec("tokens", "int64", ("batch", STEPS)),
        TensorSpec("lengths", "int64", ("batch",)),
        TensorSpec("scores", "float32", ("batch",)),
    ),
    # Random weights have no outliers and no redundancy: what they write differs after a few tokens.
    evaluation=Evaluation(data="data.py:prompts", metric="mean_absolute_error", max_drop=1e9),
    precision=WeightOnly(bits=4),
    provenance=Provenance(license="Apache-2.0", origin="random weights of the shape of Qwen2.5-0.5B"),
    packages=("transformers",),
)
