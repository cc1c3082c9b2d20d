"""Compares the parts of two apps: resources, permissions, models, workflows and costs."""
