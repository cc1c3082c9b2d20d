"""When a part is unavailable for a while, the events stay in the queue, and succeed later."""

from __future__ import annotations

import copy
import io
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tests.waiting import wait_until

if TYPE_CHECKING:
    from cdk_inference.local import LocalCloud
    from tests.e2e.conftest import Watched

pytestmark = pytest.mark.e2e


def test_objects_that_meet_a_throttled_function_succeed_later(tables: Watched) -> None:
    keys = [f"rows/throttled/{i}.json" for i in range(5)]
    before = tables.executions()
    with tables.throttled("Inference"):
        for key in keys:
            tables.put(key, b'{"a": 1, "b": 2, "c": 3, "d": 4}')
        tables.wait_for_executions(before)  # which try several times, and give all of them back
        assert tables.rows(*keys) == []
        assert len(tables.queued(keys)) == len(keys)
    assert tables.ends(keys) == dict.fromkeys(keys, "SUCCEEDED")


def test_objects_that_are_throttled_more_often_than_they_may_fail_succeed_later(obedient: Watched) -> None:
    """In these pipelines, an object that fails by itself once is a dead letter."""
    keys = [f"throttled/{i}" for i in range(3)]

    before, given = set(obedient.executions()), {}

    def deliveries() -> dict[str, int]:
        for execution in set(obedient.executions()) - before - given.keys():
            given[execution] = obedient.input(execution)
        return {key: sum(f'"{key}"' in one for one in given.values()) for key in keys}

    with obedient.throttled("Inference" if "Inference" in obedient.functions else "Score"):
        for key in keys:
            obedient.put(key, b"return [1, 2, 3, 4]")
        wait_until(lambda: min(deliveries().values()) >= 3, deliveries, every=0.5)
        assert obedient.rows(*keys) == []
        assert not set(obedient.dead()) & set(keys)
    assert obedient.ends(keys) == dict.fromkeys(keys, "SUCCEEDED")


def test_without_the_grant_to_read_objects_the_run_fails(cloud: LocalCloud, tensors: Watched) -> None:
    iam = cloud.client("iam")
    function = cloud.client("lambda").get_function_configuration(FunctionName=tensors.functions["Preprocess"])
    role = function["Role"].rpartition("/")[2]
    (name,) = iam.list_role_policies(RoleName=role)["PolicyNames"]
    policy = iam.get_role_policy(RoleName=role, PolicyName=name)["PolicyDocument"]
    array = io.BytesIO()
    np.save(array, np.arange(4, dtype=np.float32))
    key, before = "not granted.npy", tensors.executions()

    iam.put_role_policy(RoleName=role, PolicyName=name, PolicyDocument=json.dumps(_without(policy, "s3:GetObject")))
    try:
        tensors.put(key, array.getvalue())
        tensors.wait_for_executions(before)
        assert tensors.rows(key) == []
        assert len(tensors.queued([key])) == 1
    finally:
        iam.put_role_policy(RoleName=role, PolicyName=name, PolicyDocument=json.dumps(policy))
    assert tensors.ends([key]) == {key: "SUCCEEDED"}
    refusals = [line for line in tensors.logs("Preprocess").splitlines() if key in line]
    assert refusals != []
    assert all("AccessDenied" in line for line in refusals)


def _without(policy: dict[str, Any], action: str) -> dict[str, Any]:
    policy = copy.deepcopy(policy)
    statements = [statement for statement in policy["Statement"] if action in statement["Action"]]
    assert len(statements) == 1
    policy["Statement"].remove(statements[0])
    return policy
