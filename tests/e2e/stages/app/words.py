"""A source that comes along with a stage."""

REFUSAL = "as it was told to refuse"
