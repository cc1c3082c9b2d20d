"""Inspect a model: one module for each kind of file or package that it may come from."""
