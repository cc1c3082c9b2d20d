"""The records of answers and events: hashes, and nothing that tells persons."""
