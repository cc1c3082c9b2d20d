"""The recipe of a model: what a user writes."""
