"""The sources of items. Each one normalizes its events to the same item."""
