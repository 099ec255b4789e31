"""Epochs of steps: optimisers, learning rates, checkpoints, experiment tracking."""
