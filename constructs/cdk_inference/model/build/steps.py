"""The passes from module to artifact, in order."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

from cdk_inference.model.build import evaluate
from cdk_inference.model.build.data import load_batches, load_function
from cdk_inference.model.build.export import OPSET, create_module, export, run_module
from cdk_inference.model.build.graph import clean, fuse, serialize
from cdk_inference.model.build.quantize import quantize
from cdk_inference.model.manifest import Manifest
from cdk_inference.model.recipe import StaticInt8

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from cdk_inference.model.build.__main__ import Passes
    from cdk_inference.model.recipe import ModelRecipe


def build(recipe: ModelRecipe, folder: Path, versions: Mapping[str, str], key: str, work: Path, passes: Passes) -> None:
    """Build into ``work/artifact``; measurements, which differ from run to run, go to ``work/report.json``."""
    with passes("load"):
        module = create_module(load_function(folder, recipe.factory, "factory"), recipe.factory)
        samples = load_batches(folder, recipe.evaluation.data, "evaluation.data", recipe.inputs)
        expected = run_module(module, recipe, samples[0])
        evaluate.check_outputs(expected, recipe.inputs, recipe.outputs, samples[0], "PyTorch, evaluation batch 0")

    with passes("export"):
        model = clean(fuse(export(module, recipe, samples[0]), work))
        exported = serialize(model)
        baseline = evaluate.predict(exported, recipe, samples, "ONNX")
        first = [b[: e.shape[0]] for b, e in zip(baseline, expected, strict=True)]
        difference = evaluate.check_export(expected, first, recipe)

    deployed, outputs = exported, baseline
    if isinstance(recipe.precision, StaticInt8):
        with passes("quantize"):
            calibration = load_batches(folder, recipe.precision.calibration, "precision.calibration", recipe.inputs)
            deployed = serialize(clean(quantize(model, recipe.precision, calibration, work)))

    with passes("evaluate"):
        if deployed is not exported:
            outputs = evaluate.predict(deployed, recipe, samples, recipe.precision.kind)
        metric = evaluate.gate(recipe.evaluation, baseline, outputs, recipe.precision.kind)
        latency = evaluate.latency(exported, deployed, samples[0])

    manifest = Manifest(
        name=recipe.name,
        model_version=hashlib.sha256(deployed).hexdigest()[:12],
        inputs=recipe.inputs,
        outputs=recipe.outputs,
        precision=recipe.precision.kind,
        opset=OPSET,
        size_bytes=len(deployed),
        baseline_size_bytes=len(exported),
        metric=metric,
        parity={
            "exported": round(evaluate.cosine(first, expected), 3),
            "quantized": round(evaluate.cosine(outputs, baseline), 3),
        },
        provenance={
            "license": recipe.provenance.license,
            "origin": recipe.provenance.origin,
            "recipe": hashlib.sha256(json.dumps(recipe.to_data(), sort_keys=True).encode()).hexdigest(),
            **{f"version:{name}": version for name, version in versions.items()},
        },
    )
    (work / "artifact" / "model.onnx").write_bytes(deployed)
    (work / "artifact" / "manifest.json").write_text(manifest.to_json(), "utf-8")
    report = {
        "key": key,
        "seconds": passes.seconds,
        "latency": latency,
        "export_max_abs": difference,
        "quantized_cosine": evaluate.cosine(outputs, baseline),
        "evaluation_samples": int(baseline[0].shape[0]),
    }
    (work / "report.json").write_text(json.dumps(report, indent=2) + "\n", "utf-8")
