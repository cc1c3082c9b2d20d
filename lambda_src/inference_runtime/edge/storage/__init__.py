"""Keeps what the device must not forget: records of items in SQLite, and the bytes of items in files."""
