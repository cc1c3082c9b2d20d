"""The pipeline that a user deploys, and the workflow that runs it."""
