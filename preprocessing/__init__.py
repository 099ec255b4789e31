"""The competition's files -> checked tables, folds, decoded images, augmented batches."""

import os

import common  # noqa: F401

# OpenCV reads these when it is loaded. Larger pictures are refused before memory is taken. What FFmpeg prints for each
# damaged frame of a video is left out: tools.predict says what is missing.
os.environ["OPENCV_IO_MAX_IMAGE_PIXELS"] = "100000000"
os.environ["OPENCV_FFMPEG_LOGLEVEL"] = "-8"
