"""The parts of a simulation: the clock, the account with its quotas, and what batches pass."""
