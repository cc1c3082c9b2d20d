"""Stores of objects and of rows outside of AWS, for a server in a container; see `inference_runtime.serving`."""
