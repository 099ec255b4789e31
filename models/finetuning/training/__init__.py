"""The loop: optimiser, epochs, checkpoints, the best weights, experiment tracking."""
