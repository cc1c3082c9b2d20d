"""Turns a float model into each precision."""
