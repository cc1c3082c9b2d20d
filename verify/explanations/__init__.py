"""Explanations of the functions next to those of the libraries that researchers use."""
