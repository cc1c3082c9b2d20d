"""Scripts that are measured: each runs in a fresh process, outside of the virtual environment."""
