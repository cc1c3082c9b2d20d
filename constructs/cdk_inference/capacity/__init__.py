"""Where functions run, and how many execution environments are ready in advance."""
