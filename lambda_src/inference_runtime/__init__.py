"""The runtime around a user's stage functions in AWS Lambda: batching, S3 access, validation and idempotent writes.

User code needs two names from here: `RejectItem` to refuse an object with a reason, and `Item` for annotations.

Modules of the inference function define `TYPE_CHECKING` themselves, and type checkers take it for true. An import of
`typing` would make a cold start longer.
"""

from __future__ import annotations

from inference_runtime.errors import RejectItem

TYPE_CHECKING = False
if TYPE_CHECKING:
    from inference_runtime.stages.item import Item
else:  # type checkers would take any name for one that this knows

    def __getattr__(name: str) -> type:
        # Only when it is asked for: the inference function knows no items, and starts without what they need.
        if name == "Item":
            from inference_runtime.stages.item import Item  # noqa: PLC0415

            return Item
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = ["Item", "RejectItem"]
