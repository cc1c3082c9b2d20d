"""Importing what an app needs of the library, against importing the CDK's modules that this brings."""

from __future__ import annotations

import json
import sys
import time

from benchmarks.harness import Figure, Sample, Settings, alternate, node_environment, run

ROUNDS = 11
PACKAGE = "import cdk_inference"
NAMES = "from cdk_inference import InferencePipeline, ModelArtifact, Postprocess, Preprocess"
LISTED = "import json, sys; print(json.dumps(sorted(m for m in sys.modules if m.startswith('aws_cdk.aws_'))))"


def measure(settings: Settings) -> list[Figure]:
    """Return the figures."""
    # The top-level modules alone: these bring the rest.
    loaded = json.loads(_python(f"{NAMES}; {LISTED}"))
    modules = sorted({module.split(".")[1] for module in loaded})
    base = "import aws_cdk, constructs; from aws_cdk import " + ", ".join(modules)
    contenders = {"base": base, "package": f"import aws_cdk; {PACKAGE}", "names": NAMES, "aws_cdk": "import aws_cdk"}
    found = alternate({name: _timed(code) for name, code in contenders.items()}, settings.rounds(ROUNDS))
    seconds = {name: Sample.of(values["seconds"]) for name, values in found.items()}
    return [
        Figure(
            "import/package",
            "`import cdk_inference` after `import aws_cdk`",
            "`import aws_cdk`",
            "s",
            seconds["package"],
            seconds["aws_cdk"],
            "growth",
            1.05,
        ),
        Figure(
            "import/names",
            "importing `InferencePipeline` and what the reference app needs",
            "`import aws_cdk` and the modules that this brings",
            "s",
            seconds["names"],
            seconds["base"],
            "growth",
            1.05,
            {"modules": modules},
        ),
    ]


def _python(code: str) -> str:
    return run([sys.executable, "-c", code], env=node_environment()).stdout


def _timed(code: str):  # noqa: ANN202
    def once() -> dict[str, float]:
        began = time.perf_counter()
        _python(code)
        return {"seconds": time.perf_counter() - began}

    return once
