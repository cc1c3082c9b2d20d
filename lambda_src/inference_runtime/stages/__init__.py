"""The work of a stage on one batch of items."""
