"""Reusable AWS CDK constructs for event-driven ML inference."""
