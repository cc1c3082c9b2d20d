"""``python -m cdk_inference.local``."""

from __future__ import annotations

from cdk_inference.local.cli import main

main()
