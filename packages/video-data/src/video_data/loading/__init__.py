"""Batches of clips for training and evaluation, and clips from live streams."""
