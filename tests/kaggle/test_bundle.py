"""What is pushed to Kaggle: the bundle, the kernel and the weights, through a stand-in of the client's command line."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from common.errors import UserError
from common.run_folder import REPOSITORY
from models.finetuning.architecture import find
from tests.stand_in import install_client
from tools import kaggle_push
from tools.kaggle_kernel import gather_weights, take_over

STAND_IN = """
import json, os, sys
from pathlib import Path
words = sys.argv[1:]
place = Path(os.environ["STAND_IN_LIST"])
calls = json.loads(place.read_text()) if place.exists() else []
folder = Path(words[words.index("-p") + 1])
metadata = next(folder.glob("*-metadata.json"))
calls.append([*words[:2], json.loads(metadata.read_text())["id"], sorted(path.name for path in folder.iterdir())])
place.write_text(json.dumps(calls))
if words[:2] == ["datasets", "create"] and os.environ.get("STAND_IN_KNOWS"):
    print('Dataset creation error: The requested title "x" is already in use by a dataset.')
elif words[:2] == ["kernels", "push"]:
    print(os.environ.get("STAND_IN_SAYS", "Kernel version 1 successfully pushed.  Please check progress at URL"))
else:
    print("Your private Dataset is being created. Please check progress at URL")
"""
TOKEN = "KGAT_0123456789abcdef"
PUSHED = [
    ["datasets", "create", "someone/statefarm-code", ["dataset-metadata.json", "statefarm_code.zip"]],
    ["kernels", "push", "someone/statefarm-drivers", ["kernel-metadata.json", "kernel.py"]],
]


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A machine with the stand-in client and a token, that uses the packages which are there."""
    install_client(STAND_IN, TOKEN, tmp_path, monkeypatch)
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")  # root's checkout may be another user's
    monkeypatch.setenv("GIT_CONFIG_KEY_0", "safe.directory")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", "*")
    monkeypatch.setenv("STAND_IN_LIST", str(tmp_path / "calls.json"))
    monkeypatch.setenv("STATEFARM_PACKAGES", "installed")
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    return monkeypatch


def type_command(*words: object) -> subprocess.CompletedProcess:
    return subprocess.run(
        [str(word) for word in words], cwd=REPOSITORY, capture_output=True, text=True, timeout=120, check=False
    )


def push(out: Path, *options: str) -> subprocess.CompletedProcess:
    return type_command("kaggle/push.sh", "someone", "--allow-changes", "--out", out, *options)


def calls(tmp_path: Path) -> list:
    path = tmp_path / "calls.json"
    return json.loads(path.read_text()) if path.exists() else []


def test_it_builds_and_pushes_the_code_and_the_kernel(tmp_path: Path, machine: pytest.MonkeyPatch) -> None:
    done = push(tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "successfully pushed" in done.stdout
    assert calls(tmp_path) == PUSHED
    machine.setenv("STAND_IN_KNOWS", "yes")
    assert push(tmp_path / "out").returncode == 0
    assert [call[:2] for call in calls(tmp_path)[2:]] == [
        ["datasets", "create"],
        ["datasets", "version"],
        ["kernels", "push"],
    ]
    machine.setenv("STAND_IN_SAYS", "The following are not valid dataset sources: ['someone/statefarm-weights']")
    refused = push(tmp_path / "out")
    assert refused.returncode == 2
    assert "kaggle/pack_weights.sh" in refused.stderr
    assert TOKEN not in done.stdout + done.stderr + refused.stdout + refused.stderr


def test_a_dry_run_builds_the_same_bytes_each_time_and_pushes_nothing(tmp_path: Path) -> None:
    options = ("--dry-run", "--continue", "--options", "--models 'vgg16 resnet50' --time-budget 2h")
    done = push(tmp_path / "one", *options)
    assert done.returncode == 0, done.stderr
    assert push(tmp_path / "two", *options).returncode == 0
    assert calls(tmp_path) == []
    built = [(tmp_path / name / "code" / "statefarm_code.zip").read_bytes() for name in ("one", "two")]
    assert built[0] == built[1]
    with zipfile.ZipFile(tmp_path / "one" / "code" / "statefarm_code.zip") as archive:
        names = set(archive.namelist())
        version = json.loads(archive.read("statefarm_code.json"))
    revision = type_command("git", "rev-parse", "HEAD").stdout.strip()
    assert version["revision"].split("-")[0] == revision
    assert {"run_all.sh", "setup.sh", "models/vgg16.py", "tools/kaggle_kernel.py", "models/__init__.py"} <= names
    assert "tools/report.html.jinja" in names
    assert not [name for name in names if name.startswith(("tests/", "data/", "cache/", "."))]
    metadata = json.loads((tmp_path / "one" / "kernel" / "kernel-metadata.json").read_text())
    assert metadata["id"] == "someone/statefarm-drivers"
    assert metadata["kernel_sources"] == [metadata["id"]]
    assert metadata["dataset_sources"] == ["someone/statefarm-code", "someone/statefarm-weights"]
    assert (metadata["enable_gpu"], metadata["enable_internet"]) == (True, False)
    kernel = (tmp_path / "one" / "kernel" / "kernel.py").read_text()
    assert "OPTIONS = ['--models', 'vgg16 resnet50', '--time-budget', '2h']" in kernel
    assert f"REVISION = '{version['revision']}'" in kernel


def test_a_changed_file_a_credential_and_a_strange_name_are_refused(
    tmp_path: Path, machine: pytest.MonkeyPatch
) -> None:
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    for words in (["init", "-q"], ["config", "user.email", "a@b"], ["config", "user.name", "a"]):
        subprocess.run(["git", *words], cwd=checkout, check=True)
    (checkout / "run_all.sh").write_text("echo\n")
    subprocess.run(["git", "add", "-A"], cwd=checkout, check=True)
    subprocess.run(["git", "commit", "-qm", "first"], cwd=checkout, check=True)
    machine.setattr(kaggle_push, "REPOSITORY", checkout)
    assert len(kaggle_push.revision(allow_changes=False)) == 40
    (checkout / "new.py").write_text(f"token = '{TOKEN}'\n")
    with pytest.raises(UserError, match=r"differ from the last commit \(new\.py\).*--allow-changes"):
        kaggle_push.revision(allow_changes=False)
    machine.setattr(kaggle_push, "REPOSITORY", checkout)
    stamps = {kaggle_push.revision(allow_changes=True)}
    (checkout / "run_all.sh").write_text("echo more\n")
    stamps |= {kaggle_push.revision(allow_changes=True), kaggle_push.revision(allow_changes=True)}
    assert len(stamps) == 2, "other contents, another stamp"
    assert all(stamp[40:].startswith("-changed-") for stamp in stamps)
    assert kaggle_push.bundled_files() == ["run_all.sh"]
    subprocess.run(["git", "add", "-A"], cwd=checkout, check=True)
    with pytest.raises(UserError, match=r"new\.py looks like it holds a credential"):
        kaggle_push.bundled_files()
    with pytest.raises(UserError, match="--options --models 'a: expected words as in a shell"):
        kaggle_push.options_of("--models 'a")
    for name in ("Some One", "../x", ""):
        with pytest.raises(UserError, match="expected your user name"):
            kaggle_push.checked_user(name)


def test_the_client_is_imported_and_not_this_folder() -> None:
    done = type_command(sys.executable, "-c", "import kaggle; print(kaggle.CLIENT)")
    assert done.stdout == "stand-in\n", done.stderr


def test_weights_are_packed_from_a_folder_and_uploaded(tmp_path: Path) -> None:
    import keras

    weights = tmp_path / "mine"
    weights.mkdir()
    keras.applications.MobileNet(weights=None, include_top=False).save_weights(weights / "mobilenet.weights.h5")
    pack = ("kaggle/pack_weights.sh", "someone", "--models", "mobilenet", "--out", tmp_path / "out")
    done = type_command(*pack, "--weights", weights)
    assert done.returncode == 0, done.stderr
    files = ["dataset-metadata.json", "mobilenet.weights.h5"]
    assert calls(tmp_path) == [["datasets", "create", "someone/statefarm-weights", files]]
    (weights / "vgg16.weights.h5").write_bytes((weights / "mobilenet.weights.h5").read_bytes())
    wrong = type_command(*pack[:3], "vgg16", *pack[4:], "--weights", weights)
    assert wrong.returncode == 2
    assert f"expected {find('vgg16').parameters:,} numbers" in wrong.stderr


def test_the_kernel_takes_over_the_run_that_has_come_furthest_and_gathers_all_weights(tmp_path: Path) -> None:
    inputs = tmp_path / "input"
    for name, finished in (("notebooks/someone/old", 1), ("statefarm-drivers", 2)):
        run = inputs / name / "runs" / "full"
        for fold in range(2):
            (run / "vgg16" / f"fold_{fold}").mkdir(parents=True)
            if fold < finished:
                (run / "vgg16" / f"fold_{fold}" / "config.json").write_text("{}")
                (run / "vgg16" / f"fold_{fold}" / "finished.json").write_text('{"sha256": {"config.json": ""}}')
        (run / "folds.csv").write_text(name)
    (told,) = take_over(inputs, tmp_path / "working" / "runs")
    assert "2 fold runs are finished" in told
    taken = tmp_path / "working" / "runs" / "full"
    assert (taken / "folds.csv").read_text() == "statefarm-drivers"
    assert (taken / "vgg16" / "fold_1" / "finished.json").exists()
    assert take_over(inputs, tmp_path / "working" / "runs") == []

    for path in ("datasets/someone/a/vgg16.weights.h5", "b/deep/resnet50.weights.h5", "c/convnext_tiny_notop.h5"):
        (inputs / path).parent.mkdir(parents=True)
        (inputs / path).touch()
    gathered = gather_weights(inputs, tmp_path / "weights")
    names = ["convnext_tiny_notop.h5", "resnet50.weights.h5", "vgg16.weights.h5"]
    assert sorted(path.name for path in gathered.iterdir()) == names


def run_kernel(root: Path, revision: str = "") -> subprocess.CompletedProcess:
    """The kernel's script, on a bundle whose pipeline only says that it was started."""
    script = (REPOSITORY / "kaggle" / "kernel.py").read_text().replace('REVISION = ""', f"REVISION = {revision!r}")
    (root / "working").mkdir(parents=True, exist_ok=True)
    (root / "kernel.py").write_text(script)
    variables = {"STATEFARM_KAGGLE": str(root), "PATH": os.environ["PATH"]}
    command = [sys.executable, str(root / "kernel.py")]
    return subprocess.run(
        command, cwd=root / "working", env=variables, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize(
    "where", ["statefarm-code", "datasets/someone/statefarm-code", "datasets/someone/statefarm-code/x"]
)
@pytest.mark.parametrize("unpacked", [True, False])
def test_the_kernel_finds_the_code_as_an_archive_or_unpacked(tmp_path: Path, where: str, unpacked: bool) -> None:
    root, files = tmp_path / "kaggle", ["tools/__init__.py", "tools/kaggle_kernel.py"]
    folder = root / "input" / where
    folder.mkdir(parents=True)
    assert "attach the dataset statefarm-code" in run_kernel(root).stderr
    content = {
        "tools/__init__.py": "",
        "tools/kaggle_kernel.py": "import sys; print('started', *sys.argv[3:])",
        "statefarm_code.json": json.dumps({"revision": "abc", "files": files}),
    }
    if unpacked:  # by Kaggle, which may leave out what is empty
        for name, text in content.items():
            if text:
                (folder / name).parent.mkdir(exist_ok=True)
                (folder / name).write_text(text)
    else:
        with zipfile.ZipFile(folder / "statefarm_code.zip", "w") as archive:
            for name, text in content.items():
                archive.writestr(name, text)
    done = run_kernel(root, "abc")
    assert done.stdout == "started --time-budget 8h30m\n", done.stderr
    assert list((root / "working").iterdir()) == []
    assert (root / "tmp" / "code" / "tools" / "__init__.py").exists()
    late = run_kernel(root, "def")
    assert late.returncode == 1
    assert "has revision abc, not def" in late.stderr
