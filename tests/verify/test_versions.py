"""Templates of other versions of CDK are compared by resource."""

from __future__ import annotations

import pytest
from verify.versions import differences


def template(**resources):
    return {"Resources": {name: {"Type": "A::B::C", **properties} for name, properties in resources.items()}}


def test_hashes_and_the_version_of_cdk_are_no_differences():
    one = template(**{"FunctionCurrentVersion0123ABCD" + "1" * 32: {"Key": "a" * 64}})
    other = template(**{"FunctionCurrentVersion0123ABCD" + "2" * 32: {"Key": "b" * 64}})
    other["Resources"]["CDKMetadata"] = {"Type": "AWS::CDK::Metadata"}
    assert differences(one, other) == []


@pytest.mark.parametrize(
    ("one", "other", "said"),
    [
        (template(A={}), template(), ["A is missing"]),
        (template(), template(A={}), ["A is new"]),
        (template(A={"X": [1, {"Y": 2}]}), template(A={"X": [1, {"Y": 3}]}), ["A.X[1].Y: 2 is now 3"]),
        (template(A={"X": [1]}), template(A={"X": [1, 2]}), ["A.X: [1] is now [1, 2]"]),
        (template(A={"X": 1}), template(A={}), ["A.X: 1 is now null"]),
    ],
)
def test_a_resource_that_differs_fails(one, other, said):
    assert differences(one, other) == said
