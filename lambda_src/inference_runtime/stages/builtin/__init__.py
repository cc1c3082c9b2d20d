"""Stage functions that need no code: made by factories from plain options."""
