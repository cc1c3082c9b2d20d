"""An embedded AWS for tests that make workflows wait."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from cdk_inference.local import LocalCloud
from cdk_inference.local.emulator.emulator import Emulator

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class QuickEmulator(Emulator):
    """An embedded AWS in which a workflow's pauses take a tenth of their time."""

    def _environment(self) -> dict[str, str]:
        return super()._environment() | {"SFN_WAIT_SCALE": "0.1"}


@contextmanager
def quick_cloud(app: Path) -> Iterator[LocalCloud]:
    """Deploy an app to such an embedded AWS, in which nothing runs by a schedule, and stop it at the end."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cdk_inference.local.cloud.Emulator", QuickEmulator)
        with LocalCloud() as cloud:
            cloud.deploy(app)
            rules = cloud.client("events")
            for rule in rules.list_rules()["Rules"]:
                if "ScheduleExpression" in rule:
                    rules.disable_rule(Name=rule["Name"])
            yield cloud
