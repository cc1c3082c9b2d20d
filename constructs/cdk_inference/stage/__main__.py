"""``python -m cdk_inference.stage``: see `cdk_inference.stage.cli`."""

from __future__ import annotations

import sys

_MISSING = "the command line needs more packages; install them: pip install 'cdk-inference[testing]'"

if __name__ == "__main__":
    try:
        from cdk_inference.stage.cli import main
    except ModuleNotFoundError as error:
        sys.exit(f"error: {_MISSING} ({error.__cause__ or error})")
    main()
