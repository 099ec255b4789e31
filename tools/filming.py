"""Annotated copies of videos, written as mp4 by OpenCV."""

from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from preprocessing.errors import UserError
from preprocessing.files import written_whole
from tools.drawing import with_probabilities
from tools.pictures import Video
from tools.words import clock

CODEC = "mp4v"  # in every build of OpenCV; H.264 is not, for its licence


def write_annotated(video: Video, path: Path, step: int, probabilities: np.ndarray) -> None:
    """Writes every frame of a video with the probabilities of the sample nearest to it beside it.

    Args:
        path: ends in .mp4.
        step: frames between samples, from the first on.
        probabilities: shape (samples, 10).

    Raises:
        UserError: OpenCV has no such codec here, or the file cannot be written.
    """
    with written_whole(path) as temporary:
        writer = None
        bar = tqdm(total=video.frames or None, desc="annotating", unit="frame", leave=False, disable=None)
        try:
            for number, pixels in video.frames_every():
                sample = min(round(number / step), len(probabilities) - 1)
                title = f"{video.path.name}  {clock(number / video.rate)}"
                picture = with_probabilities(pixels, probabilities[sample], title)
                if writer is None:
                    size = (picture.shape[1], picture.shape[0])
                    writer = cv2.VideoWriter(str(temporary), cv2.VideoWriter.fourcc(*CODEC), video.rate, size)
                    if not writer.isOpened():
                        raise UserError(
                            f"{path}: this build of OpenCV cannot write mp4. Leave --annotate out, or give photographs."
                        )
                writer.write(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
                bar.update()
        finally:
            bar.close()
            if writer is not None:
                writer.release()
