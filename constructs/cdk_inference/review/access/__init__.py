"""The calls between the parts of a template, and the verdicts of a policy simulator on them."""
