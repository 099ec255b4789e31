"""Kaggle's own client, run as a process. What it answers becomes messages that say what to do next."""

import contextlib
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common.competition import SLUG
from common.errors import UserError, masked
from common.run_folder import REPOSITORY

PAGE = f"https://www.kaggle.com/competitions/{SLUG}"
REQUIREMENTS = "requirements/kaggle.txt"
INSTALL = f"Install the client: .venv/bin/python -m pip install -r {REQUIREMENTS}"
LOG_IN = (
    "Log in, in a browser: .venv/bin/kaggle auth login. Or get a token at https://www.kaggle.com/settings/api "
    "('Generate New Token') and save it as ~/.kaggle/access_token, or set KAGGLE_API_TOKEN to it (a kaggle.json, or "
    "KAGGLE_USERNAME and KAGGLE_KEY, work too)"
)
RULES = f"Accept the rules of the competition once, in a browser: {PAGE}/rules"
AGAIN = "Start the same command again; if Kaggle or the network failed, again later."
STEPS = f"What to do:\n  1. {RULES}\n  2. {INSTALL}\n  3. {LOG_IN}\n  4. {AGAIN}"
ANSWERS = (  # what the client prints, what it means for {what} was asked for, what to do
    (r"No module named", "the Kaggle client cannot be started.", INSTALL),
    (
        r"\b401\b|Authentication required|nvalid credentials",
        "Kaggle wants a login: there are no valid credentials on this machine.",
        STEPS,
    ),
    (r"^competitions\n.*\b403\b", "Kaggle refuses {what} (403), as it does until the rules are accepted.", RULES),
    (r"\b403\b|was denied", "Kaggle refuses {what} (403): is the user's name your own?", LOG_IN),
    ("", "the Kaggle client failed.", STEPS),
)


def install() -> None:
    """Installs the client into this environment, where it is missing."""
    find = "import importlib.util as util, sys; sys.exit(util.find_spec('kaggle') is None)"
    if subprocess.run([sys.executable, "-P", "-c", find], check=False).returncode == 0:
        return
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    command += ["-c", str(REPOSITORY / "requirements" / "lock.txt"), "-r", str(REPOSITORY / REQUIREMENTS)]
    if subprocess.run(command, check=False).returncode:
        raise UserError(f"Kaggle's client could not be installed (see above). {INSTALL}")


def run_client(
    *words: str,
    what: str,
    browser: str,
    meanwhile: Callable[[subprocess.Popen], None] = lambda process: None,
    show: bool = False,
) -> str:
    """Runs `kaggle WORDS`, and returns what it answers; whatever it fails with is a UserError that says what to do.

    Args:
        what: is asked for, for the message where it is refused, such as 'the download'.
        browser: a line that says how a person can do it without the client.
        meanwhile: called with the process, and may wait for it.
        show: print what it answers, line by line as it comes.
    """
    # A process of its own: the client exits and prints when merely imported. -P: this repository has a kaggle/ too.
    command = [sys.executable, "-P", "-m", "kaggle", *words]
    streams: Any = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    lines: list[str] = []
    with subprocess.Popen(command, encoding="utf-8", errors="replace", **streams) as process:

        def read() -> None:
            for line in process.stdout or ():
                lines.append(line)
                if show:
                    print(masked(line, *secrets()), end="", flush=True)

        reader = threading.Thread(target=read, daemon=True)  # beside `meanwhile`: a full pipe would stop the client
        reader.start()
        try:
            meanwhile(process)
            process.wait()
        finally:
            process.terminate()  # does nothing to one that has ended
        reader.join()
    answer = "".join(lines)
    if process.returncode == 0:
        return answer
    asked = f"{words[0]}\n{answer}"  # what a refusal means depends on the kind of thing
    meaning, advice = next(rest for found, *rest in ANSWERS if re.search(found, asked, re.DOTALL))
    raise UserError(f"{meaning.format(what=what)} {last_words(answer)}\n{advice}\n{browser}")


def last_words(answer: str) -> str:
    """The last line of an answer that names a fault, else the last line, without secrets. Hints follow the error."""
    lines = [line.strip() for line in answer.splitlines() if line.strip()] or [""]
    line = next((line for line in reversed(lines) if re.search(r"error\b|not valid", line, re.IGNORECASE)), lines[-1])
    return masked(f"It said: {line[:500]}" if line else "It said nothing.", *secrets())


def secrets() -> list[str]:
    """Every text that must not be repeated in a message: tokens and keys, in variables and in the client's files."""
    home, names = Path.home(), ("kaggle.json", "credentials.json", "access_token", "access_token.txt")
    folders = [home / ".kaggle", Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config") / "kaggle"]
    folders += [Path(os.environ.get("KAGGLE_CONFIG_DIR") or home)]
    found = [os.environ.get(name, "") for name in ("KAGGLE_API_TOKEN", "KAGGLE_KEY", "KAGGLE_API_V1_TOKEN_PATH")]
    for path in [*(folder / name for folder in folders for name in names), Path(found[-1])]:
        with contextlib.suppress(OSError, ValueError):
            text = path.read_text(encoding="utf-8").strip()
            record = json.loads(text) if text.startswith("{") else {"token": text}
            found += [str(record.get(name, "")) for name in ("key", "token", "access_token", "refresh_token")]
    return [secret for secret in found if len(secret) > 3]
