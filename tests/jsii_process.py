"""jsii's process without the one before it, which hands on each message: it takes a tenth of a synth's CPU time."""

from __future__ import annotations

import socket
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsii._kernel.providers import process

if TYPE_CHECKING:
    from collections.abc import Sequence


class Direct:
    """Stands for the module `subprocess` in `jsii._kernel.providers.process`."""

    PIPE, TimeoutExpired = subprocess.PIPE, subprocess.TimeoutExpired

    @staticmethod
    def Popen(command: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:  # noqa: N802 - as the real one
        """Start the process that ``jsii-runtime.js`` would, which speaks on file descriptor 3."""
        *node, runtime = command
        program = Path(runtime).parent.parent / "lib" / "program.js"
        ours, theirs = socket.socketpair()
        with ours, theirs:
            started = subprocess.Popen(
                ["sh", "-c", 'exec "$@" 3<&0 0</dev/null 1>&2', "sh", *node, "--preserve-symlinks", str(program)],
                **{**options, "stdin": theirs, "stdout": subprocess.DEVNULL},
            )
            started.stdin, started.stdout = ours.makefile("wb"), ours.makefile("rb")
        return started


def install() -> None:
    """Let this process talk to CDK directly; processes that tests start talk to it as users' apps do."""
    process.subprocess = Direct
