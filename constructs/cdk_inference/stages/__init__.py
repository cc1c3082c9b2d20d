"""The stages of a pipeline: how each is described, and the Lambda function that runs it."""
