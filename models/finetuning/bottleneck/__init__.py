"""Linear classifiers on a frozen network's features."""
