"""``python -m cdk_inference.local``."""

from __future__ import annotations

from .cli import main

main()
