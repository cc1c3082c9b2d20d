"""Drivers: what runs several graphs as one model. Each is a session over sessions; see `interfaces.Session`."""
