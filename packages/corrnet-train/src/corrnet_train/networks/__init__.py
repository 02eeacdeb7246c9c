"""The network of a run: one of `corrnet_models`, or one of another package with correlation blocks put in."""
