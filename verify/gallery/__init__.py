"""Build the recipes of the gallery, and write what came out into its page."""
