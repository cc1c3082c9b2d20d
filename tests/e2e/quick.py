"""An embedded AWS for tests that make workflows wait."""

from __future__ import annotations

from cdk_inference.local.emulator.emulator import Emulator


class QuickEmulator(Emulator):
    """An embedded AWS in which a workflow's pauses take a tenth of their time."""

    def _environment(self) -> dict[str, str]:
        return super()._environment() | {"SFN_WAIT_SCALE": "0.1"}
