"""Takes objects apart that have many items."""
