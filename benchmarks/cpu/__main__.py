"""Run a command as if this CPU ended at AVX2: ``python -m benchmarks.cpu -- COMMAND…``."""

from __future__ import annotations

import argparse
import os

from benchmarks.cpu import CannotHideError, without_vnni


def main() -> None:
    """Become the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cpu", description=__doc__)
    parser.add_argument("command", nargs="+", help="what to run, with its arguments, after --")
    command: list[str] = parser.parse_args().command
    try:
        variables = without_vnni()
    except CannotHideError as error:
        parser.exit(1, f"error: {error}\n")
    try:
        os.execvpe(command[0], command, {**os.environ, **variables})  # noqa: S606 - what the user asked for
    except OSError as error:
        parser.exit(127, f"error: {command[0]}: {error.strerror}\n")


if __name__ == "__main__":
    main()
