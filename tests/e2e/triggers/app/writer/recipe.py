from cdk_inference.model import (
    Evaluation,
    Float32,
    Graph,
    Graphs,
    ModelRecipe,
    Provenance,
    Sampling,
    TensorSpec,
    TorchModule,
)

STEPS = 24
CACHES = [f"{layer}.{kind}" for layer in range(2) for kind in ("key", "value")]
PROMPTS = (
    TensorSpec("input_ids", "int64", ("batch", "tokens")),
    TensorSpec("attention_mask", "int64", ("batch", "tokens")),
    TensorSpec("max_tokens", "int64", ("batch",)),
    TensorSpec("temperature", "float32", ("batch",)),
    TensorSpec("seed", "int64", ("batch",)),
)
WRITER = Graph(
    TorchModule("factory.py:build"),
    inputs=(
        TensorSpec("input_ids", "int64", ("batch", "steps")),
        TensorSpec("attention_mask", "int64", ("batch", "past + steps")),
        TensorSpec("position_ids", "int64", ("batch", "steps")),
        *(TensorSpec(f"past.{name}", "float32", ("batch", 2, "past", 16)) for name in CACHES),
    ),
    outputs=(
        TensorSpec("logits", "float32", ("batch", 260)),
        *(TensorSpec(f"present.{name}", "float32", ("batch", 2, "past + steps", 16)) for name in CACHES),
    ),
)
RECIPE = ModelRecipe(
    name="writer",
    source=Graphs(
        {"writer": WRITER},
        driver=Sampling(
            temperature=0,
            temperature_input="temperature",
            seed_input="seed",
            end=(2, 3),
            max_steps=STEPS,
            never=(0, 1),
            tokens="input_ids",
            position="position_ids",
            prompt="input_ids",
            mask="attention_mask",
            limit="max_tokens",
            states={f"present.{name}": f"past.{name}" for name in CACHES},
        ),
    ),
    precision=Float32(),
    inputs=PROMPTS,
    outputs=(
        TensorSpec("tokens", "int64", ("batch", STEPS)),
        TensorSpec("lengths", "int64", ("batch",)),
        TensorSpec("scores", "float32", ("batch",)),
    ),
    evaluation=Evaluation(data="data.py:evaluation", metric="exact_match", vocabulary="tokenizer.json", max_drop=0),
    provenance=Provenance(license="Apache-2.0", origin="written for these tests"),
)
