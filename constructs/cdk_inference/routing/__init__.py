"""Several models in one pipeline: which item goes to which."""
