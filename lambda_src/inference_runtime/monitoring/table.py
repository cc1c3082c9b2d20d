"""Names of the attributes in the table of windows."""

from __future__ import annotations

PARTITION_KEY, SORT_KEY, EXPIRY = "model", "started_at", "expires_at"
