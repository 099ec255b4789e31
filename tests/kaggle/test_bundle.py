"""What is pushed to Kaggle: the kernel with the code in it, and the weights, through a stand-in of the client."""

import base64
import io
import json
import lzma
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import keras
import pytest

from common.competition import CLASSES, SAMPLE_SUBMISSION
from common.errors import UserError
from common.files import sha256_of
from common.run_folder import REPOSITORY
from models.finetuning.architecture import find, find_all
from tests.commands import here, refusal, run_python, succeeded
from tests.fold_runs import finish_fold
from tests.models.test_weights import save_as_published
from tests.stand_in import calls, install_client
from tools import kaggle

TOKEN = "KGAT_0123456789abcdef"


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A machine with the stand-in client and a token, that uses the packages which are there."""
    install_client(TOKEN, tmp_path, monkeypatch)
    any_owner = {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "safe.directory", "GIT_CONFIG_VALUE_0": "*"}
    installed = {"STATEFARM_PACKAGES": "installed", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    for name, value in (any_owner | installed).items():  # root's checkout may be another user's
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(kaggle, "ASK_EVERY", 0.0)
    return monkeypatch


def push(out: Path, *options: str) -> subprocess.CompletedProcess:
    return here("tools.kaggle", "push", "someone", "--allow-changes", "--out", out, *options)


def save_weights(network: keras.Model, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    network.save_weights(path)
    return path


def test_the_weights_are_uploaded_once_and_then_as_versions_and_the_kernel_is_pushed(tmp_path: Path) -> None:
    lacking = push(tmp_path / "out")
    assert lacking.returncode == 2
    assert "not valid dataset sources" in lacking.stderr and "kaggle/pack_weights.sh" in lacking.stderr
    network = keras.applications.MobileNet(weights=None, include_top=False)
    weights = save_weights(network, tmp_path / "mine" / "mobilenet.weights.h5")
    pack = ("tools.kaggle", "pack_weights", "someone", "--out", tmp_path / "out", "--weights", weights.parent)
    for _ in range(2):
        done = succeeded(here(*pack, "--models", "mobilenet"))
        assert "uploaded: https://www.kaggle.com/datasets/someone/statefarm-weights" in done.stdout
    done = succeeded(push(tmp_path / "out"))
    assert "Kernel version 3 successfully pushed" in done.stdout
    topics = [" ".join(words[:2]) for words in calls(tmp_path / "state")]
    assert topics == ["kernels push", *("datasets create", "datasets create", "datasets version"), "kernels push"]
    assert (tmp_path / "out" / "weights" / weights.name).read_bytes() == weights.read_bytes()
    assert TOKEN not in done.stdout + done.stderr + lacking.stdout + lacking.stderr

    weights.rename(weights.with_name("vgg16.weights.h5"))
    assert f"expected {find('vgg16').parameters:,} numbers" in refusal(here(*pack, "--models", "vgg16"))
    assert "there is nothing to pack" in refusal(here(*pack[:-1], "none"))
    succeeded(here(*pack[:-1], tmp_path / "out" / "weights", "--models", "mobilenet", "--dry-run"))  # onto itself


def test_waiting_it_shows_the_log_downloads_the_output_and_submits_it(
    tmp_path: Path, machine: pytest.MonkeyPatch
) -> None:
    state, out, submissions = tmp_path / "state", tmp_path / "out", tmp_path / "submissions"
    submissions.mkdir()
    machine.setattr(kaggle, "SUBMISSIONS", submissions)
    (state / "statefarm-weights").touch()
    (state / "log").write_text("epoch 1: 12.3 images/s\n")
    ours = state / "output" / "submission.csv"
    table = ",".join(["img", *CLASSES]) + "\nimg_1.jpg" + ",0.1" * len(CLASSES) + "\n"
    for name in ("submission.csv", f"runs/{SAMPLE_SUBMISSION}", "runs/full/report.html", "runs/full/a/model.keras"):
        (ours.parent / name).parent.mkdir(parents=True, exist_ok=True)
        (ours.parent / name).write_text(table)
    for run, content in (("earlier", "{}"), ("full", sha256_of(ours))):
        (ours.parent / "runs" / run / "ensemble").mkdir(parents=True)
        (ours.parent / "runs" / run / "ensemble" / "blend.json").write_text(content)
    told = push(out, "--wait").stdout
    for words in (
        "someone/statefarm-weights: blobs_received\nsomeone/statefarm-weights: ready\n",
        "someone/statefarm-drivers/3: queued\nsomeone/statefarm-drivers/3: running\nepoch 1: 12.3 images/s\n",
        f"{out}/output/runs/full/report.html: written by the kernel",
    ):
        assert words in told
    assert not list(out.rglob("*.keras"))
    asked = [" ".join(words[:2]) for words in calls(state)]
    assert asked.index("kernels push") > asked.index("datasets status")
    assert asked[-4:] == ["kernels status", "kernels logs", "kernels status", "kernels output"]

    assert push(out, "--submit").returncode == 2, "the submission is not the competition's"
    assert (submissions / "full.csv").read_bytes() == ours.read_bytes()

    machine.setenv("STAND_IN_ENDS", "ERROR")
    failed = push(out, "--wait").stderr
    assert re.search(r"(?s)ended as 'error'.*--continue.*kaggle.com/code/someone/statefarm-drivers", failed)


def test_a_dry_run_builds_the_same_bytes_each_time_and_pushes_nothing(tmp_path: Path) -> None:
    model = "keras/vgg/keras/vgg16/2"
    options = ["--dry-run", "--continue", "--options", "--models 'vgg16 resnet50' --time-budget 2h"]
    options += ["--accelerator", "NvidiaL4", "--weights-from", "someone/else", model]
    script, again = (tmp_path / name / "kernel" / "kernel.py" for name in ("one", "two"))
    for folder in (tmp_path / "one", tmp_path / "two"):
        command = ["kaggle/push.sh", "someone", "--allow-changes", "--out", folder, *options]
        done = succeeded(subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False))
    assert calls(tmp_path / "state") == []
    assert script.read_bytes() == again.read_bytes()
    code = re.search(r'(?s)^CODE = """(.*?)"""$', script.read_text(), re.MULTILINE)
    assert code
    with zipfile.ZipFile(io.BytesIO(lzma.decompress(base64.b64decode(code[1])))) as archive:
        names, stamp = set(archive.namelist()), json.loads(archive.read("statefarm_code.json"))["revision"]
    assert stamp.split("-")[0] == kaggle.git("rev-parse", "HEAD").strip()
    assert f"revision {stamp}" in done.stdout
    assert {"run_all.sh", "setup.sh", "models/vgg16.py", "tools/kaggle.py", "tools/report.html.jinja"} <= names
    assert not [name for name in names if name.startswith(("tests/", "data/", "cache/", "."))]
    metadata = json.loads(script.with_name("kernel-metadata.json").read_text())
    expected = {"id": "someone/statefarm-drivers", "kernel_sources": ["someone/statefarm-drivers"]}
    expected |= {"dataset_sources": ["someone/else"], "model_sources": [model], "machine_shape": "NvidiaL4"}
    expected |= {"enable_gpu": True, "enable_internet": False}
    assert metadata | expected == metadata
    assert "OPTIONS = ['--models', 'vgg16 resnet50', '--time-budget', '2h']" in script.read_text()

    root = tmp_path / "kaggle"  # such a kernel, without the data
    for name in ("input", "working"):
        (root / name).mkdir(parents=True)
    done = run_python(script, cwd=root / "working", timeout=60, STATEFARM_KAGGLE=str(root))
    assert done.returncode == 1
    assert "Accept the competition's rules, and attach its data" in done.stdout
    assert "The pipeline exited with status 2" in done.stderr
    assert list((root / "working").iterdir()) == []


def test_a_changed_file_and_a_credential_are_refused(tmp_path: Path, machine: pytest.MonkeyPatch) -> None:
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    machine.setattr(kaggle, "REPOSITORY", checkout)
    (checkout / "run_all.sh").write_text("echo\n")
    kaggle.git("init", "-q")
    kaggle.git("add", "-A")
    kaggle.git("-c", "user.email=a@b", "-c", "user.name=a", "commit", "-qm", "first")
    assert len(kaggle.revision(allow_changes=False)) == 40
    (checkout / "new.py").write_text(f"token = '{TOKEN}'\n")
    with pytest.raises(UserError, match=r"differ from the last commit \(new\.py\).*--allow-changes"):
        kaggle.revision(allow_changes=False)
    assert kaggle.revision(allow_changes=True)[40:] == "-changed"
    assert kaggle.bundled_files() == {"run_all.sh": b"echo\n"}
    kaggle.git("add", "-A")
    with pytest.raises(UserError, match=r"new\.py is or has a credential"):
        kaggle.bundled_files()


def test_the_kernel_takes_over_the_run_that_has_come_furthest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    inputs, taken = tmp_path / "input", tmp_path / "working" / "runs" / "full"
    for name, finished in (("notebooks/someone/old", 1), ("statefarm-drivers", 2)):
        run = inputs / name / "runs" / "full"
        for fold in range(finished):
            finish_fold(run, "vgg16", fold)
        (run / "folds.csv").write_text(name)
    for folder in inputs.rglob("*/"):
        folder.chmod(0o555)
    kaggle.take_over(sorted(inputs.rglob("*/")), taken.parent)
    assert "2 fold runs are finished" in capsys.readouterr().out
    assert (taken / "folds.csv").read_text() == "statefarm-drivers"
    assert (taken / "vgg16" / "fold_1" / "finished.json").exists()
    assert all(folder.stat().st_mode & 0o200 for folder in taken.rglob("*/"))
    kaggle.take_over(sorted(inputs.rglob("*/")), taken.parent)
    assert capsys.readouterr().out == "", "it is there already"


def test_the_kernel_knows_weights_by_their_content_wherever_they_are_mounted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    inputs = tmp_path / "input"
    deep = inputs / "models/keras/mobilenet/keras/imagenet/1/mobilenet_1_0_224_tf_no_top.h5"
    other = inputs / "datasets/someone/weights/theirs.weights.h5"
    save_weights(keras.applications.MobileNetV2(weights=None, include_top=False), other)
    deep.parent.mkdir(parents=True)
    save_as_published(keras.applications.MobileNet(weights=None, include_top=False), deep)
    other.with_name("mobilenet.weights.h5").write_bytes(b"the right name, and nothing in it")
    files = sorted(inputs.rglob("*.h5"))
    gathered = kaggle.gather_weights(files, find_all(["mobilenet", "mobilenet_v2"]), tmp_path / "weights")
    told = capsys.readouterr().out
    assert f"weights  mobilenet: {deep}\nweights  mobilenet_v2: {other}\n" in told
    assert sorted(path.name for path in gathered.iterdir()) == ["mobilenet.weights.h5", "mobilenet_v2.weights.h5"]
    with pytest.raises(UserError, match=r"no weights of vgg16 .* among 3 files .*--weights-from OWNER/DATASET"):
        kaggle.gather_weights(files, find_all(["vgg16", "mobilenet"]), tmp_path / "weights")
