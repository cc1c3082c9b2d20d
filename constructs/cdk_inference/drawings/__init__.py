"""Draws graphs of boxes and arrows, such as a state machine from its definition."""
