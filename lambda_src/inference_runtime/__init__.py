"""The runtime around a user's stage functions in AWS Lambda: batching, S3 access, validation and idempotent writes.

User code needs two names from here: `RejectItem` to refuse an object with a reason, and `Item` for annotations.
"""

from __future__ import annotations

from inference_runtime.errors import RejectItem
from inference_runtime.item import Item

__all__ = ["Item", "RejectItem"]
