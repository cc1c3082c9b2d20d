"""``python -m cdk_inference.model``: see `cdk_inference.model.cli`."""

import sys

from cdk_inference.model.process import MISSING_EXTRA

try:
    from cdk_inference.model.cli import main
except ModuleNotFoundError as error:
    sys.exit(f"error: {MISSING_EXTRA} ({error})")

if __name__ == "__main__":
    main()
