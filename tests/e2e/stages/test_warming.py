"""Deployed functions answer what the rules of `Capacity.keep_warm` send them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from cdk_inference.local import LocalCloud
    from tests.e2e.conftest import Watched

pytestmark = pytest.mark.e2e


def test_every_stage_answers_a_warming_event(watch: type[Watched], cloud: LocalCloud) -> None:
    functions = watch(cloud, "Stages/Obedient").functions | watch(cloud, "Stages/Fused").functions
    functions.pop("Plan", None)  # a backfill's, which nothing keeps warm
    assert functions.keys() == {"Preprocess", "Inference", "Postprocess", "Score"}
    for stage, function in functions.items():
        answer = cloud.client("lambda").invoke(
            FunctionName=function, Payload=json.dumps({"cdk-inference": "warm", "hold_ms": 1})
        )
        assert "FunctionError" not in answer, (stage, answer["Payload"].read())
        assert json.load(answer["Payload"]) == {"warm": True}, stage
