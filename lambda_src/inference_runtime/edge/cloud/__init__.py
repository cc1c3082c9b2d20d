"""Sends to AWS: answers to the results table, and unsure items to the inbox."""
