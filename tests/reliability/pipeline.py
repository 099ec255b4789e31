"""The whole pipeline on a tiny rendered set: the command that is killed and started again, and what it leaves.

Nothing here stands for anything: it is `preprocessing.demo` and `run_all.sh` as a person types them, with a network of
two layers and images of 32x32 pixels, so that a start costs imports and little else.
"""

import contextlib
import dataclasses
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

from common.run_folder import REPOSITORY

RUN, MODEL, FOLDS = "tiny", "mobilenet", 2
DEMO = ("--drivers", "2", "--images-per-class", "1", "--test-drivers", "1", "--test-images-per-class", "1")
RECIPE = (
    *("--models", MODEL, "--folds", str(FOLDS), "--weights", "none", "--precision", "float32"),
    *("--image-size", "32x32", "--pooled-layers", "conv_pw_1_relu", "--head-start", "random", "--dropout", "0.1"),
    *("--epochs", "6", "--patience", "3", "--ema", "0.8", "--learning-rate", "0.003"),
    "--no-figures",
)
# The order of the stages; what a process does is told by the words of its command line.
STAGES = ("demo", "plan", "check", "folds", "ready", "models", *(f"fold {k}" for k in range(FOLDS)), "blend")
WORDS = {"preprocessing.demo": "demo", "tools.plan": "plan", "preprocessing.check": "check"}
WORDS |= {"preprocessing.folds": "folds", "tools.ready": "ready", "ensemble.blend": "blend"}


@dataclasses.dataclass(frozen=True)
class Place:
    """A folder that holds the data, the run, the cache and the submission of one pipeline.

    Attributes:
        jobs: folds at a time.
    """

    root: Path
    jobs: int = 1

    @property
    def data(self) -> Path:
        return self.root / "data"

    @property
    def run(self) -> Path:
        return self.root / "runs" / RUN

    @property
    def submission(self) -> Path:
        return self.root / "submissions" / f"{RUN}.csv"

    def fold(self, number: int) -> Path:
        return self.run / MODEL / f"fold_{number}"

    def command(self) -> list[str]:
        """What comes next: the data where there is none, then all stages."""
        if not self.data.is_dir():
            return ["python", "-m", "preprocessing.demo", "--out", str(self.data), *DEMO, "--workers", "1"]
        places = [word for name in ("runs", "cache", "submissions") for word in (f"--{name}", str(self.root / name))]
        return ["./run_all.sh", "--data", str(self.data), "--run", RUN, *places, *RECIPE, "--jobs", str(self.jobs)]

    def temporaries(self) -> set[str]:
        """Files and folders that are being written, or that somebody left when they were."""
        return set(_temporaries(self.root))

    def results(self) -> dict[str, bytes]:
        """Every table and array that decides the submission, and the submission, by their names."""
        files = [self.submission, self.run / "folds.csv"]
        for number in range(FOLDS):
            files += sorted(self.fold(number).glob("*.csv")) + sorted(self.fold(number).glob("*.npy"))
        return {str(path.relative_to(self.root)): _content(path) for path in files if path.is_file()}


def _temporaries(folder: Path | str) -> Iterator[str]:
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith(".") and not entry.name.endswith(".lock"):
                    yield entry.path
                elif entry.name != "imgs" and entry.is_dir(follow_symlinks=False):
                    yield from _temporaries(entry.path)
    except FileNotFoundError:  # gone since its parent was read
        return


def _content(path: Path) -> bytes:
    """A file's bytes; of a history less its last column, the seconds that each epoch took."""
    data = path.read_bytes()
    if path.name != "history.csv":
        return data
    return b"\n".join(line.rpartition(b",")[0] for line in data.splitlines())


class Pipeline:
    """A started pipeline, in a session and so in a process group of its own."""

    def __init__(self, command: list[str], log: Path) -> None:
        command = ["bash", "-c", 'source ./setup.sh requirements.txt; exec "$@"', "pipeline", *command]
        environment = {name: value for name, value in os.environ.items() if name != "STATEFARM_DATA"}
        self.log = log
        with log.open("ab") as stream:
            self.process = subprocess.Popen(
                command, cwd=REPOSITORY, env=environment, stdout=stream, stderr=stream, start_new_session=True
            )

    def running(self) -> bool:
        return self.process.poll() is None

    def stage(self) -> str:
        """What the youngest of its processes does; '' between two stages."""
        found = ""
        for pid in (self.process.pid, *descendants(self.process.pid)):
            found = _stage_of(pid) or found
        return found

    def stop(self, number: signal.Signals) -> None:
        """Sends a signal to the group, as Ctrl-C does; SIGTERM to the first process only, as `kill` does."""
        send = os.kill if number == signal.SIGTERM else os.killpg
        send(self.process.pid, number)

    @contextlib.contextmanager
    def ended(self) -> Iterator[None]:
        """Kills it where whoever watches it is stopped."""
        try:
            yield
        except BaseException:
            if self.running():
                self.stop(signal.SIGKILL)
            raise

    def wait(self, seconds: float | None = None) -> int:
        return self.process.wait(seconds)

    def left_behind(self) -> list[int]:
        """Living processes of its session."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    words = (entry / "stat").read_text().rpartition(")")[2].split()
                except OSError:
                    continue
                if words[0] != "Z" and int(words[3]) == self.process.pid:
                    found.append(int(entry.name))
        return found


def descendants(pid: int) -> Iterator[int]:
    """The processes that it started, parents before their children."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return
    for child in children:
        yield int(child)
        yield from descendants(int(child))


def _stage_of(pid: int) -> str:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return ""
    if len(words) < 3 or "python" not in words[0]:
        return ""
    if words[1].startswith("models/") or words[1].endswith(f"/{MODEL}.py"):
        return f"fold {words[words.index('--fold') + 1]}" if "--fold" in words else "models"
    return WORDS.get(words[2], "") if words[1] == "-m" else ""
