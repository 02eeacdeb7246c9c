"""The files of a shard set: their format, and reading, checking and showing them."""
