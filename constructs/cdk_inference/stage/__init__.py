"""The command line ``python -m cdk_inference.stage``, which runs one stage as its function in AWS does."""
