"""The judgement of a release: what was counted, and what follows from it."""
