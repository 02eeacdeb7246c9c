"""The training of a model, from its first weights to its last checkpoint."""
