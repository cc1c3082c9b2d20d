"""A log of answers, deployments and decisions that nobody can rewrite, and how to ask it."""
