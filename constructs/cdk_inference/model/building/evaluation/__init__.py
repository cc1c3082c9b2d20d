"""Measures how good, how fast and how large a model is."""
