"""The competition's files -> checked tables, folds, decoded images, augmented batches."""
