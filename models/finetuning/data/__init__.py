"""What a network is fed: photographs, kept activations, pseudo-labels, test-time augmentation."""
