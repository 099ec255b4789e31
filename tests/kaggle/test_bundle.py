"""What is pushed to Kaggle: the kernel with the code in it, and the weights, through a stand-in of the client."""

import base64
import io
import json
import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from common.competition import CLASSES, SAMPLE_SUBMISSION
from common.errors import UserError
from common.run_folder import REPOSITORY
from models.finetuning.architecture import find, find_all
from tests.models.test_weights import save_as_published
from tests.stand_in import calls, install_client
from tools import kaggle_push
from tools.kaggle_kernel import gather_weights, take_over

TOKEN = "KGAT_0123456789abcdef"


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A machine with the stand-in client and a token, that uses the packages which are there."""
    install_client(TOKEN, tmp_path, monkeypatch)
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")  # root's checkout may be another user's
    monkeypatch.setenv("GIT_CONFIG_KEY_0", "safe.directory")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", "*")
    monkeypatch.setenv("STATEFARM_PACKAGES", "installed")
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    return monkeypatch


def type_command(*words: object) -> subprocess.CompletedProcess:
    return subprocess.run(
        [str(word) for word in words], cwd=REPOSITORY, capture_output=True, text=True, timeout=120, check=False
    )


def push(out: Path, *options: str) -> subprocess.CompletedProcess:
    return type_command("kaggle/push.sh", "someone", "--allow-changes", "--out", out, *options)


def code_in(script: str) -> tarfile.TarFile:
    """The archive that a built kernel.py carries."""
    text = re.search(r'(?s)^CODE = """(.*?)"""$', script, re.MULTILINE)
    assert text
    return tarfile.open(fileobj=io.BytesIO(base64.b64decode(text[1])), mode="r:xz")


def test_the_weights_are_uploaded_once_and_then_as_versions_and_the_kernel_is_pushed(
    tmp_path: Path, machine: pytest.MonkeyPatch
) -> None:
    lacking = push(tmp_path / "out")
    assert lacking.returncode == 2
    assert "not valid dataset sources" in lacking.stderr and "kaggle/pack_weights.sh" in lacking.stderr
    weights = tmp_path / "mine"
    weights.mkdir()
    import keras

    keras.applications.MobileNet(weights=None, include_top=False).save_weights(weights / "mobilenet.weights.h5")
    pack = ("kaggle/pack_weights.sh", "someone", "--models", "mobilenet", "--out", tmp_path / "out")
    for _ in range(2):
        done = type_command(*pack, "--weights", weights)
        assert done.returncode == 0, done.stderr
        assert "uploaded: https://www.kaggle.com/datasets/someone/statefarm-weights" in done.stdout
    done = push(tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "Kernel version 3 successfully pushed" in done.stdout
    topics = [" ".join(words[:2]) for words in calls(tmp_path / "state")]
    assert topics == ["kernels push", *("datasets create", "datasets create", "datasets version"), "kernels push"]
    packed = tmp_path / "out" / "weights" / "mobilenet.weights.h5"
    assert packed.read_bytes() == (weights / packed.name).read_bytes()
    assert TOKEN not in done.stdout + done.stderr + lacking.stdout + lacking.stderr

    (weights / "vgg16.weights.h5").write_bytes(packed.read_bytes())
    wrong = type_command(*pack[:3], "vgg16", *pack[4:], "--weights", weights)
    assert wrong.returncode == 2
    assert f"expected {find('vgg16').parameters:,} numbers" in wrong.stderr


def test_waiting_it_shows_the_log_downloads_the_output_and_submits_it(
    tmp_path: Path, machine: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    state, out = tmp_path / "state", tmp_path / "out"
    (state / "statefarm-weights").touch()
    (state / "log").write_text("epoch 1: 12.3 images/s\n")
    run = state / "output" / "runs" / "full"
    for name in ("report.html", "folds.csv", "ensemble/blend.json", "vgg16/fold_0/model.keras"):
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text("{}")
    table = ",".join(["img", *CLASSES]) + "\nimg_1.jpg" + ",0.1" * len(CLASSES) + "\n"
    for path in (state / "output" / "submission.csv", state / SAMPLE_SUBMISSION):
        path.write_text(table)
    machine.setenv("STAND_IN_FILES", str(state))
    machine.setattr(kaggle_push, "ASK_EVERY", 0.0)
    machine.setattr(kaggle_push, "SUBMISSIONS", tmp_path / "submissions")
    (tmp_path / "submissions").mkdir()
    words = ["push", "someone", "--allow-changes", "--out", str(out)]
    machine.setattr(sys, "argv", [*words, "--wait"])
    kaggle_push.main()
    told = capfd.readouterr().out
    assert "someone/statefarm-weights: blobs_received; waiting until it is ready" in told
    assert "someone/statefarm-drivers/3: queued" in told
    assert "epoch 1: 12.3 images/s" in told
    assert f"{out}/output/runs/full/report.html: written by the kernel" in told
    assert not list(out.rglob("*.keras"))
    asked = [" ".join(words[:2]) for words in calls(state)]
    assert asked.index("kernels push") > asked.index("datasets status")
    assert asked[-4:] == ["kernels status", "kernels logs", "kernels status", "kernels output"]

    machine.setattr(sys, "argv", [*words, "--submit"])
    with pytest.raises(SystemExit) as ended:
        kaggle_push.main()
    assert ended.value.code == 2, "the submission is not the competition's"
    assert "submissions/full.csv is of 1 images" in capfd.readouterr().err
    assert (out / "output" / SAMPLE_SUBMISSION).is_file()

    machine.setenv("STAND_IN_ENDS", "ERROR")
    machine.setattr(sys, "argv", [*words, "--wait"])
    with pytest.raises(UserError, match=r"(?s)ended as 'error'.*--continue.*kaggle.com/code/someone/statefarm-drivers"):
        kaggle_push.main()


def test_a_dry_run_builds_the_same_bytes_each_time_and_pushes_nothing(tmp_path: Path) -> None:
    options = ("--dry-run", "--continue", "--options", "--models 'vgg16 resnet50' --time-budget 2h")
    model = "keras/vgg/keras/vgg16/2"
    options = (*options, "--accelerator", "NvidiaL4", "--weights-from", "someone/else", model)
    done = push(tmp_path / "one", *options)
    assert done.returncode == 0, done.stderr
    assert push(tmp_path / "two", *options).returncode == 0
    assert calls(tmp_path / "state") == []
    script, again = ((tmp_path / name / "kernel" / "kernel.py").read_text() for name in ("one", "two"))
    assert script == again
    with code_in(script) as archive:
        names = set(archive.getnames())
        manifest = archive.extractfile("statefarm_code.json")
        assert manifest
        stamp = json.load(manifest)["revision"]
    revision = type_command("git", "rev-parse", "HEAD").stdout.strip()
    assert stamp.split("-")[0] == revision
    assert f"revision {stamp}" in done.stdout
    assert {"run_all.sh", "setup.sh", "models/vgg16.py", "tools/kaggle_kernel.py", "models/__init__.py"} <= names
    assert "tools/report.html.jinja" in names
    assert not [name for name in names if name.startswith(("tests/", "data/", "cache/", "."))]
    metadata = json.loads((tmp_path / "one" / "kernel" / "kernel-metadata.json").read_text())
    assert metadata["id"] == "someone/statefarm-drivers"
    assert metadata["kernel_sources"] == [metadata["id"]]
    assert (metadata["dataset_sources"], metadata["model_sources"]) == (["someone/else"], [model])
    assert (metadata["enable_gpu"], metadata["enable_internet"]) == (True, False)
    assert metadata["machine_shape"] == "NvidiaL4"
    assert "OPTIONS = ['--models', 'vgg16 resnet50', '--time-budget', '2h']" in script


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--weights-from", "vgg16"], "expected OWNER/DATASET, or OWNER/MODEL/keras/VARIATION/VERSION"),
        (["--accelerator", "NvidiaTeslaP100"], "expected one of NvidiaTeslaT4"),
    ],
)
def test_what_kaggle_does_not_have_is_refused(tmp_path: Path, options: list[str], message: str) -> None:
    done = push(tmp_path, "--dry-run", *options)
    assert done.returncode == 2
    assert message in done.stderr


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
    with pytest.raises(UserError, match=r"new\.py looks like a credential"):
        kaggle_push.bundled_files()
    with pytest.raises(UserError, match="--options --models 'a: expected words as in a shell"):
        kaggle_push.words_of("--models 'a")
    for name in ("Some One", "../x", ""):
        with pytest.raises(UserError, match="expected your user name"):
            kaggle_push.checked_user(name)


def test_the_client_is_imported_and_not_this_folder() -> None:
    done = type_command(sys.executable, "-c", "import kaggle; print(kaggle.CLIENT)")
    assert done.stdout == "stand-in\n", done.stderr


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


def test_the_kernel_knows_weights_by_their_content_wherever_they_are_mounted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import h5py
    import keras

    inputs = tmp_path / "input"
    deep, other = inputs / "models/keras/mobilenet/keras/imagenet/1", inputs / "datasets/someone/weights"
    for folder in (deep, other):
        folder.mkdir(parents=True)
    keras.applications.MobileNetV2(weights=None, include_top=False).save_weights(other / "theirs.weights.h5")
    network = keras.applications.MobileNet(weights=None, include_top=False)
    save_as_published(network, deep / "mobilenet_1_0_224_tf_no_top.h5")
    with h5py.File(other / "mobilenet.weights.h5", "w") as stored:  # the right name, and nothing in it
        stored.create_group("layers")
    gathered = gather_weights(inputs, find_all(["mobilenet", "mobilenet_v2"]), tmp_path / "weights")
    told = capsys.readouterr().out
    assert f"weights  mobilenet: {deep / 'mobilenet_1_0_224_tf_no_top.h5'}" in told
    assert f"weights  mobilenet_v2: {other / 'theirs.weights.h5'}" in told
    assert sorted(path.name for path in gathered.iterdir()) == ["mobilenet.weights.h5", "mobilenet_v2.weights.h5"]
    with pytest.raises(UserError, match=r"no weights of vgg16 .* among 3 files .*--weights-from OWNER/DATASET"):
        gather_weights(inputs, find_all(["vgg16", "mobilenet"]), tmp_path / "weights")


def run_kernel(root: Path, script: str) -> subprocess.CompletedProcess:
    """A kernel's script, in a folder like Kaggle's."""
    (root / "working").mkdir(parents=True, exist_ok=True)
    (root / "kernel.py").write_text(script)
    variables = {"STATEFARM_KAGGLE": str(root), "PATH": os.environ["PATH"]}
    command = [sys.executable, str(root / "kernel.py")]
    return subprocess.run(
        command, cwd=root / "working", env=variables, capture_output=True, text=True, timeout=60, check=False
    )


def test_a_kernel_without_the_data_says_what_to_attach(tmp_path: Path) -> None:
    assert push(tmp_path / "out", "--dry-run").returncode == 0
    root = tmp_path / "kaggle"
    (root / "input").mkdir(parents=True)
    done = run_kernel(root, (tmp_path / "out" / "kernel" / "kernel.py").read_text())
    assert done.returncode == 1
    assert "Attach the competition's data to the kernel" in done.stdout
    assert "The pipeline exited with status 2" in done.stderr
    assert list((root / "working").iterdir()) == []
    assert (root / "tmp" / "code" / "run_all.sh").read_bytes() == (REPOSITORY / "run_all.sh").read_bytes()
