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
import pytest
from hypothesis import given
from hypothesis import strategies as st

from preprocessing.errors import UserError
from preprocessing.settings import ImageSize
from preprocessing.tables import read_predictions
from tests.tools.conftest import TrainedRun, run_python
from tools import drawing, finished, pictures, predict, words


def run_predict(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], trained: TrainedRun, *options: object
) -> str:
    monkeypatch.setattr(sys, "argv", ["predict", *trained.choice, *map(str, options)])
    predict.main()
    return capsys.readouterr().out


def write_video(path: Path, frames: list[np.ndarray], rate: float = 10.0) -> Path:
    height, width = frames[0].shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), rate, (width, height))
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
    expected = read_predictions(trained.piece / "test.csv")
    found = read_predictions(out).loc[expected.index]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    best = expected.to_numpy().argmax(axis=1)[0]
    line = next(line for line in told.splitlines() if line.startswith(expected.index[0]))
    assert words.class_words(best) in line
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


def test_a_photograph_is_turned_as_the_telephone_says_and_other_kinds_are_read_too(tmp_path: Path) -> None:
    upright = np.zeros((40, 60, 3), np.uint8)
    upright[:, :20] = 255
    lying = cv2.rotate(upright, cv2.ROTATE_90_COUNTERCLOCKWISE)
    data = cv2.imencode(".jpg", lying)[1].tobytes()
    orientation_6 = bytes.fromhex("ffe1002245786966000049492a00080000000100120103000100000006000000000000000000")
    (tmp_path / "turned.jpg").write_bytes(data[:2] + orientation_6[:36] + data[2:])
    cv2.imwrite(str(tmp_path / "plain.png"), upright)
    for name in ("turned.jpg", "plain.png"):
        photograph = pictures.Photograph(name, tmp_path / name)
        assert photograph.whole().shape == (40, 60, 3), name
        seen = photograph.seen(ImageSize(20, 30), "whole")
        assert seen.shape == (20, 30, 3)
        assert seen[:, :8].mean() > 240, name
        assert seen[:, 12:].mean() < 15, name


def test_pictures_of_one_name_in_two_folders_keep_apart(trained: TrainedRun, tmp_path: Path) -> None:
    first = sorted((trained.data / "imgs" / "test").glob("*.jpg"))[0]
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        shutil.copy(first, tmp_path / folder / "one.jpg")
    found, _ = pictures.find([tmp_path / "a", tmp_path / "b"])
    assert len({photograph.name for photograph in found}) == 2
    targets = {predict.annotated_path(tmp_path / "out", photograph.name, ".jpg") for photograph in found}
    assert len(targets) == 2
    assert all(target.is_relative_to(tmp_path / "out") for target in targets)


def test_a_broken_picture_in_a_folder_is_left_out_and_one_that_was_named_is_an_error(
    trained: TrainedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(sorted((trained.data / "imgs" / "test").glob("*.jpg"))[0], tmp_path / "good.jpg")
    (tmp_path / "bad.jpg").write_bytes(b"\xff\xd8 and nothing else")
    (tmp_path / "bad.png").write_bytes(b"no picture")
    whole = cv2.imencode(".png", np.full((60, 80, 3), 7, np.uint8))[1].tobytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    found, _ = pictures.find([tmp_path])
    assert [photograph.name for photograph in pictures.readable(found, [tmp_path])] == ["good.jpg"]
    assert "left out" in capsys.readouterr().out
    for name in ("bad.jpg", "bad.png"):
        found, _ = pictures.find([tmp_path / name])
        with pytest.raises(UserError, match=name):
            pictures.readable(found, [tmp_path / name])


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
    with pytest.raises(UserError, match=r"holds no finished model. Begun, but not finished: vgg16"):
        finished.finished_pieces(finished.existing_run("begun", tmp_path))
    with pytest.raises(UserError, match="holds no runs yet"):
        finished.existing_run("any", tmp_path / "nowhere")


def test_annotated_copies_never_replace_the_originals(trained: TrainedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = trained.data / "imgs" / "test"
    monkeypatch.setattr(sys, "argv", ["predict", *trained.choice, str(folder), "--annotate", str(folder)])
    with pytest.raises(UserError, match="Choose a folder without the originals"):
        predict.main()


def test_annotated_copies_never_replace_one_another(
    trained: TrainedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = sorted((trained.data / "imgs" / "test").glob("*.jpg"))[0]
    for folder in ("a", "here/a"):
        (tmp_path / folder).mkdir(parents=True)
        shutil.copy(first, tmp_path / folder / "one.jpg")
    monkeypatch.chdir(tmp_path / "here")
    words = ["predict", *trained.choice, "a/one.jpg", "../a/one.jpg", "--annotate", "copies"]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(UserError, match=r"a/one\.jpg and \.\./a/one\.jpg would both be copies/a/one\.jpg"):
        predict.main()


@pytest.mark.parametrize("name", ["predict", "compare", "explain", "export"])
def test_help_answers_at_once(name: str) -> None:
    told = run_python("-X", "importtime", "-m", f"tools.{name}", "--help")
    assert told.returncode == 0
    for module in ("numpy", "pandas", "cv2", "keras"):
        assert f" {module}\n" not in told.stderr, f"{module} is loaded for --help"


@given(st.integers(1, 9), st.sampled_from([1, 3, 5]), st.integers(0, 2**31))
def test_spans_cover_every_sample_once_and_smoothing_keeps_probabilities(count: int, width: int, seed: int) -> None:
    table = np.random.default_rng(seed).dirichlet(np.ones(10), size=count)
    shown = words.smoothed(table, width)
    np.testing.assert_allclose(shown.sum(axis=1), 1)
    spans = list(words.spans(shown))
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
