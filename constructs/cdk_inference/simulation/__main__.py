"""``python -m cdk_inference.simulation``: see `cdk_inference.simulation.cli`."""

from __future__ import annotations

import sys

_MISSING = "the command line needs more packages; install them: pip install 'cdk-inference[simulation]'"

if __name__ == "__main__":
    try:
        from cdk_inference.simulation.cli import main
    except ModuleNotFoundError as error:
        sys.exit(f"error: {_MISSING} ({error})")
    main()
