"""Backfills: score objects that are in the bucket already, by a state machine that is safe to stop and to repeat."""
