"""Shards for users of `webdataset` and `datasets`; each module needs its package."""
