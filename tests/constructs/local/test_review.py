"""A review against what is deployed, which reads templates from CloudFormation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cdk_inference.costs.options import Traffic
from cdk_inference.costs.prices import Prices
from cdk_inference.review.against import read_against
from cdk_inference.review.assembly import read_assembly
from cdk_inference.review.review import review

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import pytest

    from cdk_inference.local import LocalCloud
    from cdk_inference.local.uploads import Pipeline


def test_the_deployed_stack_is_what_was_synthesized(
    local_cloud: LocalCloud, probe: Pipeline, ready: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in local_cloud.environment().items():
        if name.startswith("AWS_"):
            monkeypatch.setenv(name, value)
    folder = ready().parent
    after = read_assembly(folder / "assembly")
    before = read_against("deployed", after, folder=folder)
    assert list(before.templates) == ["LocalProbe"]
    found = review(after, before, Traffic(items_per_month=1), Prices())
    assert (found.findings, found.diffs) == ((), ())
    nowhere = read_assembly(ready(stack="Elsewhere").parent / "assembly")
    assert read_against("deployed", nowhere, folder=folder).templates == {}
