"""Predictions for a person's own photographs and videos."""

import itertools
import shutil
import struct
import sys
import zlib
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import PIL.Image
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import UserError
from common.run_folder import RunFolder
from common.tables import read_predictions
from tests.commands import run_python
from tests.tools.conftest import TrainedRun
from tools import drawing, pictures, predict
from tools.finished import finished_folds


def run_predict(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], trained: TrainedRun, *options: object
) -> str:
    monkeypatch.setattr(sys, "argv", ["predict", *trained.choice, *map(str, options)])
    predict.main()
    return capsys.readouterr().out


def write_video(path: Path, frames: list[np.ndarray], rate: float = 10.0, codec: str = "mp4v") -> Path:
    height, width = frames[0].shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), rate, (width, height))
    for frame in frames:
        writer.write(frame)
    writer.release()
    return path


def test_a_folder_of_test_images_gets_the_predictions_of_the_run_itself(
    trained: TrainedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, copies = tmp_path / "table.csv", tmp_path / "copies"
    folder = trained.data / "imgs" / "test"
    told = run_predict(monkeypatch, capsys, trained, folder, "--out", out, "--annotate", copies)
    expected = read_predictions(trained.folder / "test.csv")
    found = read_predictions(out).loc[expected.index]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    best = expected.to_numpy().argmax(axis=1)[0]
    line = next(line for line in told.splitlines() if line.startswith(expected.index[0]))
    assert drawing.class_words(best) in line
    assert "s each (reading and 1 network: mobilenet)" in told
    for name in expected.index:
        assert cv2.imread(str(copies / name)).shape[1] > cv2.imread(str(folder / name)).shape[1]


def test_a_video_is_seen_every_so_often_and_copied_in_full(
    trained: TrainedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    images = [cv2.imread(str(path)) for path in sorted((trained.data / "imgs" / "train" / "c3").glob("*.jpg"))[:2]]
    video = write_video(tmp_path / "drive.mp4", [images[0]] * 12 + [images[1]] * 13)
    out, copies = tmp_path / "table.csv", tmp_path / "copies"
    told = run_predict(monkeypatch, capsys, trained, video, "--out", out, "--annotate", copies, "--every", 0.5)
    names = pd.read_csv(out)["img"].tolist()
    assert names == [f"drive.mp4@{seconds:09.3f}" for seconds in (0, 0.5, 1, 1.5, 2)]
    assert "drive.mp4: 5 frames, 0.5 s apart" in told
    assert "0:00.0 to " in told
    assert " to 0:02.5" in told
    copy = cv2.VideoCapture(str(copies / "drive.mp4"))
    assert copy.get(cv2.CAP_PROP_FPS) == 10
    count = 0
    while copy.read()[0]:
        count += 1
    assert count == 25


def test_pictures_of_one_name_in_two_folders_keep_apart(trained: TrainedRun, tmp_path: Path) -> None:
    first = sorted((trained.data / "imgs" / "test").glob("*.jpg"))[0]
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        shutil.copy(first, tmp_path / folder / "one.jpg")
    found = pictures.find([tmp_path / "a", tmp_path / "b"]).photographs
    assert len({photograph.name for photograph in found}) == 2
    targets = {predict.annotated_path(tmp_path / "out", photograph.name, ".jpg") for photograph in found}
    assert len(targets) == 2
    assert all(target.is_relative_to(tmp_path / "out") for target in targets)


def with_other_times(video: Path, frames: int) -> Path:
    """The same MP4 with its first half at 0.05 s a frame and its second at 0.2 s: another table of durations."""
    data = bytearray(video.read_bytes())
    timescale = int.from_bytes(data[(place := data.index(b"mdhd")) + 16 : place + 20], "big")
    table = data.index(b"stts") - 4
    halves = (frames // 2, timescale // 20, frames - frames // 2, timescale // 5)
    data[table : table + 24] = struct.pack(">I4s6I", 32, b"stts", 0, 2, *halves)
    for box in (b"moov", b"trak", b"mdia", b"minf", b"stbl"):  # those around it are 8 bytes longer
        place = data.rindex(box) - 4
        data[place : place + 4] = (int.from_bytes(data[place : place + 4], "big") + 8).to_bytes(4, "big")
    place = data.index(b"edts")  # its edit list would cut it at the old length
    data[place : place + 4] = b"free"
    changed = video.with_name(f"variable_{video.name}")
    changed.write_bytes(data)
    return changed


def noisy_frames(count: int) -> list[np.ndarray]:
    """Frames that take some kilobytes each, brighter from one to the next."""
    generator = np.random.default_rng(0)
    size = (120, 160, 3)
    return [np.clip(generator.integers(0, 40, size) + number * 2, 0, 255).astype(np.uint8) for number in range(count)]


def times_of(video: Path, seconds: float) -> list[float]:
    found = pictures.find([video]).videos[0]
    return [time for time, _ in found.frames_every(seconds)]


def test_times_are_those_of_the_file_also_where_the_rate_varies(tmp_path: Path) -> None:
    frames = noisy_frames(100)
    constant = write_video(tmp_path / "constant.mp4", frames, rate=20)
    np.testing.assert_allclose(times_of(constant, 0), np.arange(100) / 20, atol=0.001)
    np.testing.assert_allclose(times_of(constant, 0.5), np.arange(10) / 2, atol=0.001)
    variable = with_other_times(constant, 100)
    expected = np.concatenate([np.arange(50) * 0.05, 2.5 + np.arange(50) * 0.2])
    np.testing.assert_allclose(times_of(variable, 0), expected, atol=0.001)
    np.testing.assert_allclose(times_of(variable, 1), [0, 1, 2, 3.1, 4.1, 5.1, 6.1, 7.1, 8.1, 9.1, 10.1, 11.1, 12.1])
    for path in (constant, variable):
        video = pictures.find([path]).videos[0]
        list(video.frames_every(0.5))
        assert video.missing() == ""
    assert video.end == pytest.approx(12.5)


def test_an_annotated_copy_of_a_variable_rate_is_as_long_and_shows_each_frame_at_its_time(tmp_path: Path) -> None:
    path = with_other_times(write_video(tmp_path / "drive.mp4", noisy_frames(40), rate=20), 40)
    video = pictures.find([path]).videos[0]
    times = [time for time, _ in video.frames_every(0.5)]
    drawing.write_annotated(video, tmp_path / "copy.mp4", times, np.full((len(times), 10), 0.1))
    originals = {time: pixels[:100, :100].mean() for time, pixels in video.frames_every()}
    copy = pictures.find([tmp_path / "copy.mp4"]).videos[0]
    found = [(time, pixels[:100, :100].mean()) for time, pixels in copy.frames_every()]
    assert copy.end == pytest.approx(5, abs=0.1)
    for time, brightness in found:
        shown = max(original for original in originals if original <= time + 0.06)
        assert brightness == pytest.approx(originals[shown], abs=6), time


DAMAGES = {
    "zeros in an mp4": ("a.mp4", "mp4v", "zeros"),
    "zeros in an avi": ("a.avi", "MJPG", "zeros"),
    "zeros in an mkv": ("a.mkv", "mp4v", "zeros"),
    "zeros at the end of an mp4": ("a.mp4", "mp4v", "last"),
    "a cut mp4": ("a.mp4", "mp4v", "index first, cut"),
    "a cut avi": ("a.avi", "MJPG", "cut"),
    "a cut mkv": ("a.mkv", "mp4v", "cut"),
    "a cut webm": ("a.webm", "VP80", "cut"),
}


@pytest.mark.parametrize("case", DAMAGES)
def test_a_damaged_video_is_read_as_far_as_it_can_be_and_is_not_taken_for_complete(case: str, tmp_path: Path) -> None:
    name, codec, damage = DAMAGES[case]
    path = write_video(tmp_path / name, noisy_frames(100), 25, codec)
    whole = pictures.find([path]).videos[0]
    assert len(list(whole.frames_every(0.5))) == 8
    assert len(whole.times) == 100
    assert whole.missing() == ""
    data = bytearray(path.read_bytes())
    size = len(data)
    if damage == "zeros":
        data[size * 2 // 5 : size * 2 // 5 + 60_000] = bytes(60_000)
    elif damage == "last":
        data[size * 9 // 10 : data.rindex(b"moov") - 4] = bytes(data.rindex(b"moov") - 4 - size * 9 // 10)
    elif damage == "index first, cut":
        data = index_first(data)[: size // 2]
    else:
        del data[size // 2 :]
    path.write_bytes(data)
    video = pictures.find([path]).videos[0]
    list(video.frames_every(0.5))
    assert f"only {len(video.times)} of 100 frames could be decoded" in video.missing()
    assert 40 <= len(video.times) < 100
    if case == "zeros in an mp4":
        assert len(video.times) > 80, "what follows the damage is decoded too"
        assert "none between 0:01." in video.missing()


def index_first(data: bytearray) -> bytearray:
    """An MP4 of one track with its index before its frames, as for streaming."""
    index = data.rindex(b"moov") - 4
    box = bytearray(data[index:])
    place = box.index(b"stco") + 8
    for entry in range(int.from_bytes(box[place : place + 4], "big")):
        offset = place + 4 + 4 * entry
        moved = int.from_bytes(box[offset : offset + 4], "big") + len(box)
        box[offset : offset + 4] = moved.to_bytes(4, "big")
    start = int.from_bytes(data[:4], "big")
    return data[:start] + box + data[start:index]


def test_a_video_that_an_edit_list_shortens_is_complete(tmp_path: Path) -> None:
    path = write_video(tmp_path / "trimmed.mp4", noisy_frames(100), 25)
    data = bytearray(path.read_bytes())
    place = data.index(b"elst") + 12
    data[place : place + 4] = (2000).to_bytes(4, "big")  # milliseconds of 4,000
    data[place + 4 : place + 8] = (512 * 15).to_bytes(4, "big")  # from the 15th frame on, which is not a key frame
    path.write_bytes(data)
    video = pictures.find([path]).videos[0]
    list(video.frames_every(0.5))
    assert len(video.times) < 60
    assert video.missing() == ""


def test_a_damaged_video_is_predicted_and_ends_with_a_status_of_its_own(
    trained: TrainedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    path = write_video(tmp_path / "drive.mp4", noisy_frames(100), 25)
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 60_000] = bytes(60_000)
    path.write_bytes(data)
    message = r"parts of 1 video are missing, the rest was predicted: drive\.mp4 \(only \d+ of 100 frames"
    with pytest.raises(UserError, match=message) as caught:
        run_predict(monkeypatch, capfd, trained, path, "--out", tmp_path / "table.csv")
    assert caught.value.status == 3
    assert "mpeg4" not in capfd.readouterr().err, "what FFmpeg prints of each frame"
    assert len(read_predictions(tmp_path / "table.csv")) == 8


def test_where_photographs_are_expected_a_video_of_a_folder_is_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    video = write_video(tmp_path / "drive.mp4", noisy_frames(2))
    PIL.Image.new("RGB", (60, 40)).save(tmp_path / "good.png")
    found = pictures.find([tmp_path], videos=False)
    assert [photograph.name for photograph in found.photographs] == ["good.png"]
    assert f"left out: {video} is a video" in capsys.readouterr().out
    with pytest.raises(UserError, match="is a video; expected photographs"):
        pictures.find([video], videos=False)


def test_what_is_broken_in_a_folder_is_left_out_and_counted_and_what_was_named_is_an_error(
    trained: TrainedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    good = sorted((trained.data / "imgs" / "test").glob("*.jpg"))[0]
    pixels = PIL.Image.open(good)
    shutil.copy(good, tmp_path / "good.jpg")
    for name in ("good.webp", "good.gif", "good.tif", "good.png", "good.avif"):
        pixels.save(tmp_path / name)
    write_video(tmp_path / "good.mp4", noisy_frames(10))
    (tmp_path / "note.txt").write_text("not a picture")
    whole, jpeg_data = (tmp_path / "good.png").read_bytes(), good.read_bytes()
    tables = jpeg_data.index(b"\xff\xc4") + 5
    broken = {
        "bad.jpg": b"\xff\xd8 and nothing else",
        "bad.png": b"no picture",
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
    told = run_predict(monkeypatch, capsys, trained, tmp_path, "--out", out)
    names = list(read_predictions(out).index)
    assert [name for name in names if "@" not in name] == sorted(
        ["good.jpg", "good.webp", "good.gif", "good.tif", "good.png", "good.avif"]
    )
    assert names[-1] == "good.mp4@00000.500"
    for name in (*broken, "link.jpg"):
        assert f"left out: {tmp_path / name} " in told
    assert f"left out: {tmp_path / 'phone.jpg'} is a HEIC or AVIF picture" in told
    assert "1 other file not looked at (.txt)" in told
    assert told.splitlines()[-1] == "9 files left out: not readable"
    for name in broken:
        with pytest.raises(UserError, match=name):
            run_predict(monkeypatch, capsys, trained, tmp_path, tmp_path / name)
    only = tmp_path / "only"
    only.mkdir()
    (only / "bad.jpg").write_bytes(b"")
    with pytest.raises(UserError, match=r"none of these can be read: .*bad\.jpg"):
        run_predict(monkeypatch, capsys, trained, only)


def test_a_picture_that_claims_more_pixels_than_memory_should_hold_is_refused(tmp_path: Path) -> None:
    whole = cv2.imencode(".png", np.full((60, 80, 3), 7, np.uint8))[1].tobytes()
    header = b"IHDR" + struct.pack(">II", 12_000, 12_000) + whole[24:29]  # pixels, in a file of a few hundred bytes
    huge = tmp_path / "huge.png"
    huge.write_bytes(whole[:12] + header + struct.pack(">I", zlib.crc32(header)) + whole[33:])
    code = f"from tools import pictures; pictures.Photograph('huge', __import__('pathlib').Path({str(huge)!r})).whole()"
    done = run_python("-c", code)
    assert "more than 100 million pixels" in done.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--run", "tyny", "x.jpg"], "no such run in .* Did you mean tiny?"),
        (["--run", "tiny", "--model", "mobilnet", "x.jpg"], "--model mobilnet: .* Did you mean mobilenet?"),
        (["--run", "tiny", "--fold", "1", "x.jpg"], "--fold 1: not finished .* There are: 0"),
        (["--run", "tiny", "/nowhere.jpg"], "/nowhere.jpg: no such file"),
        (["--run", "tiny", "pyproject.toml"], "expected a photograph or video"),
    ],
)
def test_bad_input_is_told_before_keras_is_loaded(
    trained: TrainedRun, options: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["predict", "--runs", str(trained.runs), *options])
    with pytest.raises(UserError, match=message):
        predict.main()


def test_a_run_without_finished_models_says_what_was_begun(tmp_path: Path) -> None:
    (tmp_path / "begun" / "vgg16" / "fold_0").mkdir(parents=True)
    (tmp_path / "begun" / "vgg16" / "fold_0" / "config.json").write_text("{}")
    with pytest.raises(UserError, match=r"holds no finished model. Started, but not finished: vgg16"):
        finished_folds(RunFolder.existing("begun", tmp_path))
    with pytest.raises(UserError, match="holds no runs yet"):
        RunFolder.existing("any", tmp_path / "nowhere")


def test_annotated_copies_never_replace_the_originals(trained: TrainedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = trained.data / "imgs" / "test"
    monkeypatch.setattr(sys, "argv", ["predict", *trained.choice, str(folder), "--annotate", str(folder)])
    with pytest.raises(UserError, match="Choose a folder without the originals"):
        predict.main()


@given(st.integers(1, 9), st.integers(0, 2**31))
def test_spans_cover_every_sample_once(count: int, seed: int) -> None:
    shown = np.random.default_rng(seed).dirichlet(np.ones(10), size=count)
    spans = list(drawing.spans(shown))
    assert [n for first, last, _ in spans for n in range(first, last + 1)] == list(range(count))
    classes = [int(shown[first].argmax()) for first, _, _ in spans]
    assert all(one != other for one, other in itertools.pairwise(classes))


@pytest.mark.parametrize("size", [(480, 640), (1920, 1080), (33, 31), (2000, 3000)])
def test_annotated_pictures_have_even_sides_and_leave_the_picture_alone(size: tuple[int, int]) -> None:
    picture = np.full((*size, 3), 200, np.uint8)
    found = drawing.with_probabilities(picture, np.full(10, 0.1), "a title")
    assert found.shape[0] % 2 == found.shape[1] % 2 == 0
    shrunk = drawing.at_most(picture, drawing.MOST_SIDE)
    assert max(shrunk.shape[:2]) <= drawing.MOST_SIDE
    assert (found[:, : shrunk.shape[1] - 1] == 200).all()
