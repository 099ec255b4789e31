"""Commands of this repository, as a user types them."""

import contextlib
import importlib
import io
import os
import subprocess
import sys
from pathlib import Path
from unittest import mock

from common.errors import UserError
from common.run_folder import REPOSITORY

HEAVY = {"numpy", "pandas", "scipy", "sklearn", "cv2", "matplotlib", "keras", "tensorflow", "jax", "torch", "ray"}


def run_python(
    *words: object, cwd: Path = REPOSITORY, timeout: float = 120, **environment: str
) -> subprocess.CompletedProcess[str]:
    """python WORDS, in the repository's root."""
    command = [sys.executable, *map(str, words)]
    variables = os.environ | environment
    return subprocess.run(command, cwd=cwd, env=variables, capture_output=True, text=True, timeout=timeout, check=False)


def here(name: str, *words: object) -> subprocess.CompletedProcess[str]:
    """python -m NAME WORDS, in this process: seconds less, which the imports take. Not for what loads a backend."""
    main, status = importlib.import_module(name).main, 0
    with (
        mock.patch.object(sys, "argv", [name, *map(str, words)]),
        contextlib.redirect_stdout(io.StringIO()) as out,
        contextlib.redirect_stderr(io.StringIO()) as err,
    ):
        try:
            main()
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            status = error.status
        except SystemExit as end:
            status = int(end.code or 0)
    return subprocess.CompletedProcess([name, *map(str, words)], status, out.getvalue(), err.getvalue())


def succeeded(done: subprocess.CompletedProcess[str]) -> subprocess.CompletedProcess[str]:
    """A command that ended with status 0."""
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def refusal(done: subprocess.CompletedProcess[str]) -> str:
    """The one line of a command that ended with a user's mistake, before it said anything else."""
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stdout + done.stderr
    assert done.stderr.startswith("error: ")
    return done.stderr


def heavy_packages(*words: str) -> set[str]:
    """The packages that take long to import, of those that `python WORDS... --help` loads."""
    done = run_python("-X", "importtime", *words, "--help")
    modules = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "argparse" in modules, "this is the list of what was loaded"
    return HEAVY & {name.partition(".")[0] for name in modules}
