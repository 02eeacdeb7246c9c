"""A trained model at work: predictions, features, and its export in other forms."""
