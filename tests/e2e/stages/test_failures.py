"""Errors of the user's code are told while the user waits."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.e2e.stages.conftest import APP

if TYPE_CHECKING:
    from cdk_inference.local import LocalCloud
    from cdk_inference.local.failures import Failure
    from tests.e2e.conftest import Watched

pytestmark = pytest.mark.e2e


def test_an_error_is_told_with_the_place_in_the_user_s_code(cloud: LocalCloud, obedient: Watched) -> None:
    told: list[Failure] = []
    pipeline = cloud.pipeline(obedient.name)
    uploads = [pipeline.put("told/raise", b"raise"), pipeline.put("told/after", b"return [1, 2, 30, 40]")]
    outcomes = cloud.wait_for(uploads, timeout=600, pipeline=obedient.name, on_failure=told.append)
    assert [outcome.status for outcome in outcomes] == ["DEAD_LETTER", "SUCCEEDED"]
    assert all(each.stage.startswith(f"{obedient.name}/") for each in told)
    (failure,) = (each for each in told if each.keys == ("told/raise",))
    assert failure.stage == f"{obedient.name}/{'Score' if 'Fused' in obedient.name else 'Preprocess'}"
    lines = failure.traceback.splitlines()
    line = '    raise RuntimeError("as it was told")'
    number = 1 + APP.joinpath("obey.py").read_text().splitlines().index(f"    {line}")
    assert lines[-3:-1] == [f'  File "obey.py", line {number}, in preprocess', line]
    assert lines[-1] == failure.error == "RuntimeError: as it was told"
    assert "inference_runtime" not in failure.traceback
    assert failure.next in ("a dead letter now", "its message has left the queue since")
    assert not failure.again
