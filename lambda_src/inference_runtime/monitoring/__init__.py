"""Drift: what is counted of each batch, and how a window of counts is judged."""
