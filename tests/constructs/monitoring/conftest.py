"""Models that look as if they were built, with a baseline."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from tests.constructs.conftest import RECIPE

from cdk_inference import ModelArtifact
from cdk_inference.model.records.manifest import Metric, Observation

if TYPE_CHECKING:
    from collections.abc import Callable

    import aws_cdk as cdk

    Built = Callable[..., ModelArtifact]

CLASSES = [Observation("output", "logits", kind, (0.5, 0.7), (100, 100, 100)) for kind in ("label", "confidence")]
VECTOR = [Observation("output", "logits", f"feature {place}", (0.0,), (150, 150)) for place in range(2)]
INPUTS = [Observation("input", "image", "brightness", (90.0, 120.0), (50, 200, 50))]


@pytest.fixture
def built() -> Built:
    """Have a placeholder look as if it was built, with these observations."""

    def build(model: ModelArtifact, *observations: Observation, metric: str = "top1_agreement") -> ModelArtifact:
        model.manifest = replace(
            model.manifest,
            size_bytes=1,
            model_version="0123456789ab",
            metric=Metric(metric, 1.0, 1.0, 0.9, 300),
            baseline=observations or (*CLASSES, *VECTOR, *INPUTS),
        )
        return model

    return build


@pytest.fixture
def model(stack: cdk.Stack, built: Built) -> ModelArtifact:
    return built(ModelArtifact(stack, "Model", recipe=RECIPE))
