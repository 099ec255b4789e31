"""What a network trains on and predicts: images, kept activations, features, pseudo-labels."""
