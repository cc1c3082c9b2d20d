"""ONNX files that were quantized before: they are exported as what they are, on CPUs with VNNI and without."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import onnx
import pytest
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)
from tests.constructs.model import graphs
from tests.constructs.model.loading import load

from benchmarks import cpu
from cdk_inference.model import Evaluation, ModelRecipe, OnnxFile, Provenance, TensorSpec
from cdk_inference.model.building.evaluation.evaluate import check_export, predict
from cdk_inference.model.building.graph.graph import clean, fuse, rounds, serialize
from cdk_inference.model.building.importers.independence import check_independence

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np

ROOT = Path(__file__).parents[5]
MODELS: dict[str, tuple[Callable[[], onnx.ModelProto], tuple[TensorSpec, TensorSpec]]] = {
    "hybrid": (
        graphs.hybrid,
        (TensorSpec("x", "float32", ("batch", 3, 16, 16)), TensorSpec("scores", "float32", ("batch", 64))),
    ),
    "transformer": (
        graphs.transformer,
        (TensorSpec("ids", "int64", ("batch", "sequence")), TensorSpec("embedding", "float32", ("batch", 64))),
    ),
    "recurrent": (
        graphs.recurrent,
        (TensorSpec("x", "float32", ("batch", "sequence", 16)), TensorSpec("scores", "float32", ("batch", 64))),
    ),
}
STATIC = {
    "signed": {},
    "unsigned": {"activation_type": QuantType.QUInt8, "per_channel": True},
    "operators": {"activation_type": QuantType.QUInt8, "quant_format": QuantFormat.QOperator},
}
CASES = [("hybrid", kind) for kind in ("dynamic", *STATIC)] + [("transformer", "dynamic"), ("recurrent", "dynamic")]


class Reader(CalibrationDataReader):
    def __init__(self, model: onnx.ModelProto) -> None:
        self._feeds = iter([graphs.feed(model, seed=seed) for seed in range(4)])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._feeds, None)


def export(name: str, kind: str, folder: Path) -> None:
    """Quantize a network as others do, and take it through the first passes of a build."""
    make, (x, y) = MODELS[name]
    model = make()
    onnx.save(model, folder / "float.onnx")
    if kind == "dynamic":
        quantize_dynamic(folder / "float.onnx", folder / "net.onnx")
    else:
        quantize_static(folder / "float.onnx", folder / "net.onnx", Reader(model), **STATIC[kind])
    recipe = ModelRecipe(
        name="net",
        source=OnnxFile("net.onnx"),
        inputs=(x,),
        outputs=(y,),
        evaluation=Evaluation(data="data.py:evaluation", metric="cosine"),
        provenance=Provenance(license="CC0-1.0", origin="random numbers"),
    )
    feed = graphs.feed(model)
    loaded = load(recipe, folder, folder / "cache")
    expected = loaded.run(feed)
    check_independence(loaded, recipe, feed, expected)
    cleaned = clean(fuse(loaded.export(feed), folder))
    assert rounds(cleaned)
    found = predict(serialize(cleaned), recipe, [feed], "the exported graph", fused=False)
    check_export(expected, found[0], recipe, quantized=True)


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_quantized_file_is_exported(name: str, kind: str, tmp_path: Path) -> None:
    export(name, kind, tmp_path)


@pytest.mark.slow
def test_quantized_files_are_exported_without_vnni(tmp_path: Path) -> None:
    """Sums of 16 bits saturate there, unless the file's own answers are computed exactly too."""
    try:
        variables = cpu.without_vnni()
    except cpu.CannotHideError as error:
        pytest.skip(str(error))
    code = (
        "import json, sys; from pathlib import Path\n"
        f"from {__name__} import export\n"
        "for i, (name, kind) in enumerate(json.loads(sys.argv[1])):\n"
        "    (folder := Path(sys.argv[2], str(i))).mkdir(); export(name, kind, folder)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(CASES), tmp_path],
        env={**os.environ, **variables, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
