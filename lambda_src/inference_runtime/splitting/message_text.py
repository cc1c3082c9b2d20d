"""Text that messages of SQS may have."""

from __future__ import annotations

import json
import re

_NOT_TEXT = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # SQS does not take them


def is_message_text(text: str) -> bool:
    """Tell whether SQS takes each character of a text."""
    return _NOT_TEXT.search(text) is None


def message_json(value: object) -> str:
    """Return a value as JSON, short and without characters that SQS does not take."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return _NOT_TEXT.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
