"""Commands of this repository, as a user types them."""

import subprocess
import sys

from common.run_folder import REPOSITORY


def module(name: str, *words: object) -> subprocess.CompletedProcess[str]:
    """python -m NAME WORDS, in the repository's root."""
    command = [sys.executable, "-m", name, *map(str, words)]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
