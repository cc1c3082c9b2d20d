"""The files of a model, in the package or downloaded."""
