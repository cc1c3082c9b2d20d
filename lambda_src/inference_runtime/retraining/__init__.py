"""Labels for objects that were scored, the set of them that a model is trained with, and what became of it."""
