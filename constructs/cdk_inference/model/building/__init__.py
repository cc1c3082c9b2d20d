"""The process that builds a model. Only code in here imports torch, and only `python -m` of it runs."""
