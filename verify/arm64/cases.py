"""The packages that are verified: each kind of function, each engine, and each delivery that needs no Docker."""

from __future__ import annotations

from pathlib import Path

from cdk_inference.local.aws import ACCOUNT, REGION

__all__ = ["ACCOUNT", "CASES", "COLUMNS", "MODEL_CACHE", "REGION", "ROOT", "STACK"]

ROOT = Path(__file__).parents[2]
STACK = "Verify"

MODEL_CACHE = "VERIFY_MODEL_CACHE"
"""Variable with the folder of built models: bundles of a verification have a separate cache, models do not."""

COLUMNS = tuple(f"c{number}" for number in range(12))
"""Names of the numbers that the model for rows takes."""

CASES = {
    "Photos": {"Preprocess": "image", "Inference": "C API, zip", "Postprocess": "classification"},
    "FusedPhotos": {"Score": "image to label, C API, zip"},
    "OwnPhotos": {
        "Preprocess": "own code, pillow-heif",
        "Inference": "onnxruntime, layer",
        "Postprocess": "own code",
    },
    "Sentences": {"Preprocess": "text", "Inference": "C API, layer", "Postprocess": "embedding"},
    "Json": {"Preprocess": "JSON", "Inference": "C API, S3", "Postprocess": "outputs"},
    "Csv": {"Preprocess": "CSV", "Inference": "onnxruntime, S3"},
    "Arrays": {"Preprocess": "array (.npy)"},
    "Recordings": {"Preprocess": "FLAC"},
}
"""By the name of the pipeline, the package of each stage. One that is missing is the same as another pipeline's."""
