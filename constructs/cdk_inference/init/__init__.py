"""Writes a project that synthesizes and deploys at once: with a small model, or around a given one."""
