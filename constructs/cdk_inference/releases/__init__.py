"""Releases: two models side by side, a share that is data, and a way back that needs no deployment."""
