"""Runs a command for as long as the parent lives, then ends it with everything that it started.

Run as a file, in a new session. Closing stdin ends the command.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading


def _follow_parent() -> None:
    os.read(0, 1)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    child = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)  # noqa: S603
    threading.Thread(target=_follow_parent, daemon=True).start()
    sys.exit(child.wait())
