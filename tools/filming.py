"""Annotated copies of videos, written as mp4 by OpenCV."""

import itertools
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from common.errors import UserError
from common.files import written_whole
from tools.drawing import with_probabilities
from tools.pictures import Video
from tools.words import clock

CODEC = "mp4v"  # in every build of OpenCV; H.264 is not, for its licence


def write_annotated(video: Video, path: Path, times: Sequence[float], probabilities: np.ndarray) -> None:
    """Writes the frames of a video with the probabilities of the sample nearest to each beside it.

    The copy has a constant rate, the one at which most of the video was filmed: frames are repeated or left out so that
    each appears at its time.

    Args:
        video: all its frames have been decoded before.
        path: ends in .mp4.
        times: of the samples, in seconds.
        probabilities: shape (samples, 10).

    Raises:
        UserError: OpenCV has no such codec here, or the file cannot be written.
    """
    between = np.add(times[1:], times[:-1]) / 2
    rate, end = video.usual_rate, video.end
    with written_whole(path) as temporary:
        writer = None
        bar = tqdm(total=len(video.times), desc="annotating", unit="frame", leave=False, disable=None)
        written, picture = 0, None
        try:
            for time, pixels in itertools.chain(video.frames_every(), [(end, None)]):
                while picture is not None and written < round(time * rate):
                    writer = writer or _writer(temporary, path, rate, picture)
                    writer.write(picture)
                    written += 1
                if pixels is not None:
                    title = f"{video.path.name}  {clock(time)}"
                    row = probabilities[np.searchsorted(between, time)]
                    picture = cv2.cvtColor(with_probabilities(pixels, row, title), cv2.COLOR_RGB2BGR)
                    bar.update()
        finally:
            bar.close()
            if writer is not None:
                writer.release()


def _writer(temporary: Path, path: Path, rate: float, picture: np.ndarray) -> cv2.VideoWriter:
    size = (picture.shape[1], picture.shape[0])
    writer = cv2.VideoWriter(str(temporary), cv2.VideoWriter.fourcc(*CODEC), rate, size)
    if not writer.isOpened():
        raise UserError(f"{path}: this build of OpenCV cannot write mp4. Leave --annotate out, or give photographs.")
    return writer
