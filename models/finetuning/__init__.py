"""The engine that every architecture shares: network, recipe, training of one fold, prediction."""
