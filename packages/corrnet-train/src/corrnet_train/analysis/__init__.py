"""What a trained model looks at: its correlation layers, and the motion that they match."""
