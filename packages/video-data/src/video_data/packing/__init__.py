"""Writing listed videos into shards, in a way that can be stopped and continued."""
