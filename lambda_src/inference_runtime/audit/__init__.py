"""What an audit log keeps of answers and events: hashes, and nothing that tells persons."""
