"""Kaggle's kernel: finds the bundle of the code among the inputs, unpacks it, and has it run the pipeline.

Everything else is in the bundle: tools/kaggle_kernel.py. kaggle/push.sh fills in the two constants.
"""

import json
import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path

OPTIONS = ["--time-budget", "8h30m"]  # of run_all.sh
REVISION = ""  # of the code that is expected; any where it is empty

STARTED = time.time()
ROOT = Path(os.environ.get("STATEFARM_KAGGLE", "/kaggle"))
BUNDLE, MANIFEST = "statefarm_code.zip", "statefarm_code.json"
DEPTH = 5  # of folders under input/, as in input/datasets/USER/NAME/FOLDER/statefarm_code.json


def find(names: tuple[str, ...], folder: Path, depth: int = DEPTH) -> Path | None:
    """The first file or folder with one of the names, not looking into folders of images."""
    entries = sorted(folder.iterdir()) if folder.is_dir() and depth else []
    hits = (entry for name in names for entry in entries if entry.name == name and entry.is_file())
    inside = (find(names, entry, depth - 1) for entry in entries if entry.is_dir() and entry.name != "imgs")
    return next(hits, None) or next((hit for hit in inside if hit), None)


def unpack(found: Path, code: Path) -> None:
    """Kaggle may have unpacked the archive already, and may have left out what is empty, as __init__.py files are."""
    code.mkdir(parents=True, exist_ok=True)
    if found.name == BUNDLE:
        with zipfile.ZipFile(found) as archive:
            archive.extractall(code)
    names = json.loads((found if found.name == MANIFEST else code / MANIFEST).read_text())["files"]
    for name in names:
        (code / name).parent.mkdir(parents=True, exist_ok=True)
        if found.name == MANIFEST:
            source = found.parent / name
            (code / name).write_bytes(source.read_bytes() if source.exists() else b"")


def main() -> None:
    found = find((MANIFEST, BUNDLE), ROOT / "input")
    if found is None:
        sys.exit(f"No code among the inputs: attach the dataset statefarm-code (expected {BUNDLE} or {MANIFEST}).")
    code = ROOT / "tmp" / "code"
    unpack(found, code)
    if found.name == MANIFEST:
        (code / MANIFEST).write_bytes(found.read_bytes())
    revision = json.loads((code / MANIFEST).read_text())["revision"]
    if REVISION and revision != REVISION:
        sys.exit(f"The dataset has revision {revision}, not {REVISION}: Kaggle was not done with it. Push again.")
    command = [sys.executable, "-m", "tools.kaggle_kernel", str(ROOT), str(STARTED), *OPTIONS]
    process = subprocess.Popen(command, cwd=code, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    for line in process.stdout or ():
        print(line, end="", flush=True)
    if process.wait():
        sys.exit(
            f"The pipeline ended with status {process.returncode}; see above. What is finished is in working/runs."
        )


main()
