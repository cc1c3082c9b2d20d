"""Checks, units and deprecations of props."""
