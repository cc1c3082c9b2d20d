"""The records of a build: its manifest and its locks."""
