"""Inference on a GPU: Lambda's or SageMaker's, and the workflow that waits for it."""
