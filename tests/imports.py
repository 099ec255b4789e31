"""Which heavy packages a command loads: `--help` is quick where it loads none, on any machine."""

import os
import subprocess
import sys

from common.run_folder import REPOSITORY

HEAVY = {"numpy", "pandas", "scipy", "sklearn", "cv2", "matplotlib", "keras", "tensorflow", "jax", "torch", "ray"}


def heavy_packages(*words: str) -> set[str]:
    """Runs `python WORDS... --help`.

    Returns:
        the heavy packages that it loads.
    """
    command = [sys.executable, "-X", "importtime", *words, "--help"]
    done = subprocess.run(
        command, cwd=REPOSITORY, env=dict(os.environ), capture_output=True, text=True, timeout=120, check=True
    )
    modules = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "argparse" in modules, "this is the list of what was loaded"
    return HEAVY & {name.partition(".")[0] for name in modules}
