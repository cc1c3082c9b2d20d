"""APIs that answer with a prediction: who asks waits for it."""
