"""Checkpoints: what is in them, and how they are written to disk and read again."""
