"""The files that a recipe names: downloads and weights."""
