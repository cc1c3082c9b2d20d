"""``python -m cdk_inference.anywhere``: see `cdk_inference.anywhere.cli`."""

from __future__ import annotations

import sys

_MISSING = "the command line needs more packages; install them: pip install 'cdk-inference[model,anywhere]'"

if __name__ == "__main__":
    try:
        from cdk_inference.anywhere.cli import main
    except ModuleNotFoundError as error:
        sys.exit(f"error: {_MISSING} ({error})")
    main()
