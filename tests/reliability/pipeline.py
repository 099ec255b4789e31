"""The whole pipeline on a tiny rendered set: the command that is killed and started again, and what it leaves.

It is `preprocessing.demo` and `run_all.sh` as a person types them, with a network of two layers and images of 32x32
pixels, so that a start costs imports and little else.
"""

import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil

from common.run_folder import REPOSITORY, RunFolder

MODEL, FOLDS = "mobilenet", 2
DEMO = ("--drivers", "2", "--images-per-class", "1", "--test-drivers", "1", "--test-images-per-class", "1")
RECIPE = (
    *("--folds", str(FOLDS), "--weights", "none", "--precision", "float32"),
    *("--image-size", "32x32", "--pooled-layers", "conv_pw_1_relu", "--head-start", "random", "--dropout", "0.1"),
    *("--epochs", "6", "--patience", "3", "--ema", "0.8", "--learning-rate", "0.003"),
)


@dataclasses.dataclass(frozen=True)
class Place:
    """A folder that holds the data, the run, the cache and the submission of one pipeline."""

    root: Path

    @property
    def data(self) -> Path:
        return self.root / "data"

    @property
    def run(self) -> RunFolder:
        return RunFolder(self.root / "runs" / "tiny")

    @property
    def submissions(self) -> Path:
        return self.root / "submissions"

    @property
    def where(self) -> list[str]:
        """The options that say where the data and the run are."""
        return ["--data", str(self.data), "--run", self.run.name, "--runs", str(self.run.path.parent)]

    def render(self) -> list[str]:
        """The command that makes the data."""
        return [sys.executable, "-m", "preprocessing.demo", "--out", str(self.data), *DEMO, "--workers", "1"]

    def command(self) -> list[str]:
        """What comes next: the data where there is none, then all stages."""
        if not self.data.is_dir():
            return self.render()
        places = ["--cache", str(self.root / "cache"), "--submissions", str(self.submissions)]
        return ["./run_all.sh", *self.where, *places, "--models", MODEL, *RECIPE, "--jobs", "1"]

    def temporaries(self) -> set[str]:
        """Files and folders that are being written, or that somebody left when they were."""
        found = set[str]()
        for folder, folders, files in os.walk(self.root):
            hidden = [name for name in (*folders, *files) if name.startswith(".") and not name.endswith(".lock")]
            found.update(os.path.join(folder, name) for name in hidden)  # noqa: PTH118
            folders[:] = [name for name in folders if name not in (*hidden, "imgs")]
        return found

    def results(self) -> dict[str, bytes]:
        """Every table and array that decides the submission, and the submission, by their names."""
        files = [self.submissions / f"{self.run.name}.csv", self.run.folds]
        for folder in self.run.fold_folders():
            files += [*folder.path.glob("*.csv"), *folder.path.glob("*.npy")]
        return {str(path.relative_to(self.root)): _content(path) for path in files if path.is_file()}


def differing(expected: dict[str, bytes], found: dict[str, bytes]) -> list[str]:
    """Names of results that are not the same bytes, or not there."""
    return sorted(name for name in {*expected, *found} if expected.get(name) != found.get(name))


def _content(path: Path) -> bytes:
    """A file's bytes; of a history less its last column, the seconds that each epoch took."""
    data = path.read_bytes()
    if path.name != "history.csv":
        return data
    return b"\n".join(line.rpartition(b",")[0] for line in data.splitlines())


class Pipeline:
    """A started command, in a session and so in a process group of its own."""

    def __init__(self, command: list[str], log: Path) -> None:
        environment = {name: value for name, value in os.environ.items() if name != "STATEFARM_DATA"}
        self.log = log
        with log.open("ab") as stream:
            self.process = subprocess.Popen(
                command, cwd=REPOSITORY, env=environment, stdout=stream, stderr=stream, start_new_session=True
            )

    def running(self) -> bool:
        return self.process.poll() is None

    def fold(self) -> str:
        """The fold that one of its processes trains; '' where none does."""
        return next(iter(trainings(self.process).values()), "")

    def stop(self, number: signal.Signals) -> None:
        """Sends a signal to the group, as Ctrl-C does; SIGTERM to the first process only, as `kill` does."""
        send = os.kill if number == signal.SIGTERM else os.killpg
        send(self.process.pid, number)

    def left_behind(self) -> list[int]:
        """Living processes of its session."""
        found = []
        for process in psutil.process_iter(["status"]):
            with contextlib.suppress(ProcessLookupError):
                if process.info["status"] != psutil.STATUS_ZOMBIE and os.getsid(process.pid) == self.process.pid:
                    found.append(process.pid)
        return found


def trainings(parent: subprocess.Popen | psutil.Process) -> dict[psutil.Process, str]:
    """The processes below another that train now, each with its fold."""
    with contextlib.suppress(psutil.NoSuchProcess):
        children = psutil.Process(parent.pid).children(recursive=True)
        commands = {process: command_line(process.pid) for process in children}
        return {process: words[words.index("--fold") + 1] for process, words in commands.items() if "--config" in words}
    return {}


def command_line(pid: int) -> list[str]:
    """The words of a process's command line."""
    with contextlib.suppress(psutil.Error):
        return psutil.Process(pid).cmdline()
    return []
