"""The competition's files -> checked tables, folds, decoded images, augmented batches."""

import os

import preprocessing.interrupts  # noqa: F401

# OpenCV reads this when it is loaded: larger pictures are refused before memory is taken (of JPEGs, in jpeg.py).
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", "100000000")
