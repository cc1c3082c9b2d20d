"""The deployment packages of functions, with the same bytes on every machine."""
