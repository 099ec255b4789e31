"""Predictions for a person's own photographs and videos."""

import itertools
import shutil
import struct
import subprocess
import zlib
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import PIL.Image
import pytest

from common.errors import UserError
from common.run_folder import RunFolder
from common.tables import read_predictions
from tests.commands import here, refusal
from tests.tools.conftest import TrainedRun
from tools import pictures
from tools.predict import finished_folds


def run_predict(trained: TrainedRun, *options: object) -> subprocess.CompletedProcess[str]:
    return here("tools.predict", *trained.choice, *options)


def write_video(
    path: Path, frames: list[np.ndarray], rate: float = 10.0, codec: str = "mp4v", ticks: list[int] | None = None
) -> Path:
    """Writes frames at a rate, or each at its own multiple of the rate's interval, as JPEG."""
    height, width = frames[0].shape[:2]
    encoded = [cv2.VIDEOWRITER_PROP_RAW_VIDEO, int(ticks is not None)]
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*codec), rate, (width, height), encoded)
    for number, frame in enumerate(frames):
        if ticks is not None:
            writer.set(cv2.VIDEOWRITER_PROP_PTS, ticks[number])
        writer.write(frame if ticks is None else cv2.imencode(".jpg", frame)[1])
    writer.release()
    return path


def noisy_frames(count: int) -> list[np.ndarray]:
    """Frames that take some kilobytes each, brighter from one to the next."""
    generator = np.random.default_rng(0)
    size = (120, 160, 3)
    return [np.clip(generator.integers(0, 40, size) + number * 2, 0, 255).astype(np.uint8) for number in range(count)]


def test_a_folder_of_test_images_gets_the_predictions_of_the_run_itself(trained: TrainedRun, tmp_path: Path) -> None:
    out, copies = tmp_path / "table.csv", tmp_path / "copies"
    folder = trained.data / "imgs" / "test"
    told = run_predict(trained, folder, "--out", out, "--annotate", copies).stdout
    expected = read_predictions(trained.folder / "test.csv")
    found = read_predictions(out).loc[expected.index]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    best = expected.to_numpy().argmax(axis=1)[0]
    line = next(line for line in told.splitlines() if line.startswith(expected.index[0]))
    assert pictures.class_words(best) in line
    assert "6 pictures, " in told and " s each, by 1 network" in told
    for name in expected.index:
        assert cv2.imread(str(copies / name)).shape[1] > cv2.imread(str(folder / name)).shape[1]


def test_a_video_is_seen_every_so_often_and_copied_in_full(trained: TrainedRun, tmp_path: Path) -> None:
    images = [cv2.imread(str(path)) for path in sorted((trained.data / "imgs" / "train" / "c3").glob("*.jpg"))[:2]]
    video = write_video(tmp_path / "drive.mp4", [images[0]] * 12 + [images[1]] * 13)
    out, copies = tmp_path / "table.csv", tmp_path / "copies"
    told = run_predict(trained, video, "--out", out, "--annotate", copies, "--every", 0.5).stdout
    names = pd.read_csv(out)["img"].tolist()
    assert names == [f"drive.mp4@{seconds:09.3f}" for seconds in (0, 0.5, 1, 1.5, 2)]
    assert "drive.mp4: 5 frames, 0.5 s apart" in told
    spans = [line.split()[:3:2] for line in told.splitlines() if line.startswith("  0:")]
    assert (spans[0][0], spans[-1][1]) == ("0:00.0", "0:02.5")
    assert all(one[1] == other[0] for one, other in itertools.pairwise(spans))
    copy = pictures.find([copies / "drive.mp4"]).videos[0]
    assert (copy.rate, len(list(copy.frames_every()))) == (10, 25)


def test_times_are_those_of_the_file_also_where_the_rate_varies_and_in_the_annotated_copy(tmp_path: Path) -> None:
    constant = write_video(tmp_path / "constant.mp4", noisy_frames(40), rate=20)
    ticks = [*range(20), *range(20, 100, 4)]
    varying = write_video(tmp_path / "varying.mkv", noisy_frames(40), 20, "MJPG", ticks)
    for path, expected in ((constant, np.arange(40) / 20), (varying, np.array(ticks) / 20)):
        video = pictures.find([path]).videos[0]
        originals = {time: pixels[:100, :100].mean() for time, pixels in video.frames_every()}
        np.testing.assert_allclose(list(originals), expected, atol=0.001)
        assert video.missing() == ""
        np.testing.assert_allclose([time for time, _ in video.frames_every(1)], range(int(expected[-1]) + 1))
    pictures.write_annotated(video, tmp_path / "copy.mp4", [0.0, 2.5], np.full((2, 10), 0.1))
    copy = pictures.find([tmp_path / "copy.mp4"]).videos[0]
    found = [(time, pixels[:100, :100].mean()) for time, pixels in copy.frames_every()]
    assert copy.end == pytest.approx(video.end, abs=0.1)
    for time, brightness in found:
        nearest = [originals[one] for one in originals if abs(one - time) <= 0.2]
        assert min(abs(brightness - other) for other in nearest) < 6, time


@pytest.mark.parametrize(
    ("name", "codec"), [("a.mp4", "mp4v"), ("a.mkv", "mp4v"), ("a.avi", "MJPG"), ("a.webm", "VP80")]
)
def test_a_damaged_video_is_read_as_far_as_it_can_be_and_ends_with_a_status_of_its_own(
    name: str, codec: str, trained: TrainedRun, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = write_video(tmp_path / name, noisy_frames(100), 25, codec)
    whole = pictures.find([path]).videos[0]
    assert len(list(whole.frames_every(0.5))) == 8
    assert len(whole.times) == 100
    assert whole.missing() == ""
    data = bytearray(path.read_bytes())
    size = len(data)
    if codec == "mp4v":
        data[size * 2 // 5 : size * 2 // 5 + 60_000] = bytes(60_000)
    else:
        del data[size // 2 :]
    path.write_bytes(data)
    video = pictures.find([path]).videos[0]
    list(video.frames_every(0.5))
    assert f"only {len(video.times)} of 100 frames could be decoded" in video.missing()
    assert 40 <= len(video.times) < 100
    if name == "a.mp4":
        assert len(video.times) > 80, "what follows the damage is decoded too"
        assert ", with " in video.missing()
        done = run_predict(trained, path, "--out", tmp_path / "table.csv")
        assert done.returncode == 3
        assert "parts of 1 video are missing, the rest was predicted: a.mp4 (only " in done.stderr
        assert "mpeg4" not in capfd.readouterr().err, "what FFmpeg prints of each frame"
        assert len(read_predictions(tmp_path / "table.csv")) == 8


def test_what_is_broken_in_a_folder_is_left_out_and_counted_and_what_was_named_is_an_error(
    trained: TrainedRun, tmp_path: Path
) -> None:
    first = sorted((trained.data / "imgs" / "test").glob("*.jpg"))[0]
    shutil.copy(first, tmp_path / "good.jpg")
    good = ["good.avif", "good.gif", "good.jpg", "good.png", "good.tif", "good.webp"]
    for name in good:
        PIL.Image.open(first).save(tmp_path / name)
    write_video(tmp_path / "good.mp4", noisy_frames(10))
    (tmp_path / "note.txt").write_text("not a picture")
    whole, jpeg_data = (tmp_path / "good.png").read_bytes(), first.read_bytes()
    tables = jpeg_data.index(b"\xff\xc4") + 5
    header = b"IHDR" + struct.pack(">II", 12_000, 12_000) + whole[24:29]  # pixels, in a file of a few kilobytes
    broken = {
        "huge.png": whole[:12] + header + struct.pack(">I", zlib.crc32(header)) + whole[33:],
        "bad.jpg": b"\xff\xd8 and nothing else",
        "body.jpg": jpeg_data[:tables] + b"\xff" * 16 + jpeg_data[tables + 16 :],  # only its header is in order
        "cut.png": whole[: len(whole) // 2],
        "empty.gif": b"",
        "clip.mp4": b"\0\0\0\x18ftypmp42" + bytes(5000),
        "phone.heic": b"\0\0\0\x18ftypheic" + bytes(100),
        "phone.jpg": b"\0\0\0\x18ftypheic" + bytes(100),
    }
    for name, data in broken.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "link.jpg").symlink_to(tmp_path / "nowhere.jpg")
    out = tmp_path / "table.csv"
    done = run_predict(trained, tmp_path, "--out", out)
    told = done.stdout
    assert "DecompressionBombWarning" not in done.stderr
    assert list(read_predictions(out).index) == [*good, "good.mp4@00000.000", "good.mp4@00000.500"]
    for name in (*broken, "link.jpg"):
        assert f"left out: {tmp_path / name} " in told
    assert f"left out: {tmp_path / 'phone.jpg'} is a HEIC or AVIF picture" in told
    assert f"left out: {tmp_path / 'huge.png'} has more than 100 million pixels" in told
    assert told.splitlines()[-1] == "9 files left out: not readable"
    for name in broken:
        with pytest.raises(UserError, match=name):
            pictures.find([tmp_path, tmp_path / name])
    assert pictures.find([tmp_path], videos=False).videos == []
    with pytest.raises(UserError, match="is a video; expected photographs"):
        pictures.find([tmp_path / "good.mp4"], videos=False)
    (tmp_path / "only").mkdir()
    (tmp_path / "only" / "bad.jpg").write_bytes(b"")
    assert "none of these can be read: " in run_predict(trained, tmp_path / "only").stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--run", "tyny", "x.jpg"], "Did you mean tiny?"),
        (["--run", "tiny", "--model", "mobilnet", "x.jpg"], "Did you mean mobilenet?"),
        (["--run", "tiny", "--fold", "1", "x.jpg"], "There are: 0"),
        (["--run", "tiny", "/nowhere.jpg"], "/nowhere.jpg: no such file"),
        (["--run", "tiny", "pyproject.toml"], "expected a photograph or video"),
        (["--run", "tiny", "TEST", "--annotate", "TEST"], "lies in it. Choose another folder"),
    ],
)
def test_bad_input_is_told(trained: TrainedRun, options: list[str], message: str) -> None:
    words = [word.replace("TEST", str(trained.data / "imgs" / "test")) for word in options]
    assert message in refusal(here("tools.predict", "--runs", trained.runs, *words))


def test_a_run_without_finished_models_says_what_was_begun(tmp_path: Path) -> None:
    (tmp_path / "begun" / "vgg16" / "fold_0").mkdir(parents=True)
    (tmp_path / "begun" / "vgg16" / "fold_0" / "config.json").write_text("{}")
    with pytest.raises(UserError, match=r"holds no finished model. Started, but not finished: vgg16"):
        finished_folds(RunFolder.existing("begun", tmp_path))
