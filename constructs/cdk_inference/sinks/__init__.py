"""Where the results of a pipeline go besides its table."""
