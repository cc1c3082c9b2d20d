"""Exports rows of a results table to files that other programs read."""
