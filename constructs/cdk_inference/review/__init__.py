"""Shows a person what a synthesized app will be, and what a change of it means."""
