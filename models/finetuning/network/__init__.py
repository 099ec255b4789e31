"""Networks: built from Keras's, their weights, what trains, where they are cut in two."""
