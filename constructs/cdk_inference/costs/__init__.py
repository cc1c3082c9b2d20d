"""What a pipeline costs at published prices, and which option is the cheapest."""
