"""One model on a GPU, shared by the processes of an execution environment."""
