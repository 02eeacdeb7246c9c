"""The accuracy of a trained model over a split."""
