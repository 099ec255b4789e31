"""The download: through Kaggle's client, here a stand-in of the same command line that drops a real archive."""

import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from common.competition import DRIVER_LIST, SAMPLE_SUBMISSION, SLUG
from common.errors import UserError
from preprocessing import dataset
from preprocessing.download import download, unpack
from tests.commands import here
from tests.stand_in import install_client
from tests.stand_in_client import FORBIDDEN

CREDENTIAL = "KGAT_0123456789abcdef"


def zip_folder(root: Path, archive: Path) -> Path:
    with zipfile.ZipFile(archive, "w") as stream:
        for path in sorted(root.rglob("*")):
            stream.write(path, path.relative_to(root))
    return archive


@pytest.fixture
def archive(tiny_tree: Callable[..., Path], tmp_path: Path) -> Path:
    return zip_folder(tiny_tree(drivers=2, images_per_class=1, test_images=2), tmp_path / "competition.zip")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def machine(tmp_path: Path, archive: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A machine with the stand-in client and a token, and with nothing else of Kaggle."""
    install_client(CREDENTIAL, tmp_path, monkeypatch)
    monkeypatch.setenv("STAND_IN_ARCHIVE", str(archive))
    monkeypatch.setattr("preprocessing.download.NEEDED_GIGABYTES", 0)
    return monkeypatch


def complaint(out: Path) -> str:
    """The message of a download that fails as it should."""
    with pytest.raises(UserError) as caught:
        download(out)
    return str(caught.value)


# Whole paths


def test_it_downloads_and_unpacks_and_a_second_start_does_nothing(
    machine: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "new" / "data").mkdir(parents=True)
    (tmp_path / "data").symlink_to(tmp_path / "new" / "data")  # to a larger disk
    download(tmp_path / "data")
    assert "python -m preprocessing.check" in capsys.readouterr().out
    assert len(dataset.load(tmp_path / "new" / "data", tmp_path / "cache").train) == 20
    assert names(tmp_path / "new") == ["data"], "no archive and no temporary folder is left"
    machine.setenv("STAND_IN_SAYS", "not to be asked again")
    download(tmp_path / "new" / "data")
    assert "there already" in capsys.readouterr().out


def test_an_archive_that_arrives_in_part_goes_on_and_a_damaged_one_is_removed(
    machine: pytest.MonkeyPatch, tmp_path: Path, archive: Path
) -> None:
    machine.setenv("STAND_IN_SAYS", "Connection broken: timed out")
    partial = tmp_path / "new" / ".data.download" / f"{SLUG}.zip"
    partial.parent.mkdir(parents=True)
    partial.write_bytes(b"half")
    assert "Start the same command again" in complaint(tmp_path / "new" / "data")
    assert partial.read_bytes() == b"half", "the client goes on from what it finds there"
    machine.delenv("STAND_IN_SAYS")
    whole = archive.read_bytes()
    archive.write_bytes(whole[: len(whole) // 2])
    assert "It was removed: the same command downloads it again" in complaint(tmp_path / "new" / "data")
    assert not list((tmp_path / "new").rglob("*.zip"))
    archive.write_bytes(whole)
    assert "done. Check it" in here("preprocessing.download", "--out", tmp_path / "new" / "data").stdout
    assert names(tmp_path / "new") == ["data"]


def test_tables_and_images_that_are_zipped_once_more_are_unpacked(
    tiny_tree: Callable[..., Path], tmp_path: Path
) -> None:
    root = tiny_tree(drivers=2, images_per_class=1, test_images=2)
    for name in (DRIVER_LIST, SAMPLE_SUBMISSION):
        with zipfile.ZipFile(root / f"{name}.zip", "w", zipfile.ZIP_DEFLATED) as stream:
            stream.write(root / name, name)
        (root / name).unlink()
    (root / "wrapped").mkdir()
    (root / "imgs").rename(root / "wrapped" / "imgs")
    zip_folder(root / "wrapped", root / "imgs.zip")
    shutil.rmtree(root / "wrapped")
    download(tmp_path / "data", zip_folder(root, tmp_path / "nested.zip"))
    assert len(dataset.load(tmp_path / "data", tmp_path / "cache").train) == 20
    assert names(tmp_path / "data") == [DRIVER_LIST, "imgs", SAMPLE_SUBMISSION]


# What the client needs


def test_without_credentials_or_client_every_step_is_told(machine: pytest.MonkeyPatch, tmp_path: Path) -> None:
    machine.delenv("KAGGLE_API_TOKEN")
    message = complaint(tmp_path / "data")
    steps = (f"https://www.kaggle.com/competitions/{SLUG}/rules", "pip install -r requirements/kaggle.txt", "--archive")
    for words in ("Authentication required", "kaggle auth login", "https://www.kaggle.com/settings/api", *steps):
        assert words in message
    (tmp_path / "site" / "kaggle" / "__main__.py").write_text("import a_module_that_is_not_there")
    assert "No module named" in complaint(tmp_path / "data")


def test_what_the_client_complains_of_is_shown_without_secrets(machine: pytest.MonkeyPatch, tmp_path: Path) -> None:
    machine.setenv("STAND_IN_SAYS", f"{FORBIDDEN}: {CREDENTIAL}")
    message = complaint(tmp_path / "new" / "data")
    assert "You don't have access to this resource" in message
    assert "***" in message
    assert CREDENTIAL not in message
    assert names(tmp_path / "new") == []


# The disk


def test_too_little_space_is_told_before_anything_is_downloaded(machine: pytest.MonkeyPatch, tmp_path: Path) -> None:
    machine.setenv("STAND_IN_SAYS", "not to be asked")
    machine.setattr("preprocessing.download.NEEDED_GIGABYTES", 1e9)
    with pytest.raises(UserError, match=r"expected 1000000000\.0 GB of free space"):
        download(tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_a_folder_with_something_else_in_it_is_left_alone(archive: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="with something else in it"):
        download(tmp_path / "data", archive)
    assert names(tmp_path / "data") == ["mine.txt"]


# Archives that are not what they should be


def test_a_damaged_archive_and_another_one_are_refused_and_leave_nothing(archive: Path, tmp_path: Path) -> None:
    whole = archive.read_bytes()
    place = whole.index(b"subject,classname,img")
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as stream:
        stream.writestr("readme.txt", "hello")
    other = (tmp_path / "other.zip").read_bytes()
    refused = {whole[:place] + b"S" + whole[place + 1 :]: "Bad CRC-32"}
    refused |= {other: f"not the competition's archive: it has no {DRIVER_LIST}"}
    refused |= dict.fromkeys((whole[: len(whole) // 2], b"", b"<html>"), "cannot be read as a zip file")
    (tmp_path / "new").mkdir()
    for content, words in refused.items():
        archive.write_bytes(content)
        with pytest.raises(UserError, match=words):
            download(tmp_path / "new" / "data", archive)
        assert names(tmp_path / "new") == []


def test_no_entry_leaves_the_folder(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as stream:
        for name in ("../outside.txt", "imgs/../../outside.txt"):
            stream.writestr(name, "bad")
    unpack(tmp_path / "bad.zip", tmp_path / "inside")
    assert names(tmp_path) == ["bad.zip", "inside"]
