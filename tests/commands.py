"""Commands of this repository, as a user types them."""

import contextlib
import importlib
import io
import subprocess
import sys
from unittest import mock

from common.errors import UserError
from common.run_folder import REPOSITORY


def module(name: str, *words: object) -> subprocess.CompletedProcess[str]:
    """python -m NAME WORDS, in the repository's root."""
    command = [sys.executable, "-m", name, *map(str, words)]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)


def here(name: str, *words: object) -> subprocess.CompletedProcess[str]:
    """As `module`, in this process: seconds less, which the imports take. Not for what loads a backend."""
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
