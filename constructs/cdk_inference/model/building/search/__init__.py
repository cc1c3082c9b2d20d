"""Searches for the best precision that passes the gate."""
