"""Kaggle's own client, started as a process of its own, and its complaints in words that say what to do next."""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from common.competition import SLUG
from common.errors import UserError, masked
from common.run_folder import REPOSITORY

PAGE = f"https://www.kaggle.com/competitions/{SLUG}"
SECRET_FIELDS = ("key", "token", "access_token", "refresh_token")  # of a credential file; the user's name is none
REQUIREMENTS = "requirements/kaggle.txt"
INSTALL = f"Install the client: .venv/bin/python -m pip install -r {REQUIREMENTS}"
LOG_IN = (
    "Get a token at https://www.kaggle.com/settings/api ('Generate New Token') and save it as ~/.kaggle/access_token, "
    "or set KAGGLE_API_TOKEN to it (a kaggle.json, or KAGGLE_USERNAME and KAGGLE_KEY, will do too)"
)
RULES = f"Accept the rules of the competition once, in a browser: {PAGE}/rules"
STEPS = f"What to do:\n  1. {RULES}\n  2. {LOG_IN}\n  3. {INSTALL}\n  4. Start this again."


def install() -> None:
    """Installs the client into this environment, where it is missing and there are credentials for it.

    Raises:
        UserError: it cannot be installed.
    """
    find = "import importlib.util as util, sys; sys.exit(util.find_spec('kaggle') is None)"
    there = subprocess.run([sys.executable, "-P", "-c", find], check=False).returncode == 0
    if there or not has_credentials():
        return
    print("installing Kaggle's client", file=sys.stderr)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    command += ["-c", str(REPOSITORY / "requirements" / "lock.txt"), "-r", str(REPOSITORY / REQUIREMENTS)]
    if subprocess.run(command, check=False).returncode:
        raise UserError(f"Kaggle's client could not be installed (see above). {INSTALL}")


def has_credentials() -> bool:
    """Whether there is anything that the client would try: a token, a key, or a login in a browser."""
    environment = os.environ
    if environment.get("KAGGLE_API_TOKEN") or environment.get("KAGGLE_API_V1_TOKEN_PATH"):
        return True
    if environment.get("KAGGLE_USERNAME") and environment.get("KAGGLE_KEY"):
        return True
    return any(path.is_file() for path in _credential_files())


def _credential_files() -> list[Path]:
    folder = Path.home() / ".kaggle"
    configuration = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "kaggle"
    folders = [Path(os.environ["KAGGLE_CONFIG_DIR"])] if os.environ.get("KAGGLE_CONFIG_DIR") else []
    keys = [parent / "kaggle.json" for parent in (*folders, folder, configuration)]
    return [*keys, *(folder / name for name in ("access_token", "access_token.txt", "credentials.json"))]


def secrets() -> list[str]:
    """Every text that must not be repeated in a message."""
    found = [os.environ.get(name, "") for name in ("KAGGLE_API_TOKEN", "KAGGLE_KEY")]
    named = [Path(os.environ.get(name, "")) for name in ("KAGGLE_API_TOKEN", "KAGGLE_API_V1_TOKEN_PATH")]
    for path in (*_credential_files(), *named):  # a variable may also name a file with the token
        try:
            text = path.read_text(encoding="utf-8").strip()
            value = json.loads(text) if path.suffix == ".json" else text
            found += (
                [str(value[name]) for name in SECRET_FIELDS if name in value] if isinstance(value, dict) else [text]
            )
        except (OSError, ValueError):
            continue
    return [secret for secret in found if len(secret) > 3]


def run_client(
    *words: str,
    what: str,
    browser: str,
    meanwhile: Callable[[subprocess.Popen], None] = lambda process: None,
    topic: str = "competitions",
) -> str:
    """Has the client do something: `kaggle TOPIC WORDS`.

    Args:
        what: is asked for, for the message where it is refused, such as 'the download'.
        browser: a line that says how a person can do it without the client.
        meanwhile: called with the process, and may wait for it.
        topic: 'competitions', 'datasets' or 'kernels'.

    Returns:
        What it said.

    Raises:
        UserError: no credentials, no client, rules not accepted, no network, or whatever else the client said.
    """
    if not has_credentials():
        raise UserError(f"no Kaggle credentials found.\n{STEPS}\n{browser}")
    # A process of its own: the client exits and prints when merely imported. -P: this repository has a kaggle/ too.
    command = [sys.executable, "-P", "-m", "kaggle", topic, *words]
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
        try:
            meanwhile(process)
            process.wait()
        finally:
            process.terminate()  # does nothing to one that has ended
            process.wait()
        output.seek(0)
        said = output.read().decode("utf-8", "replace")
    if process.returncode != 0:
        raise UserError(_explain(said, what, browser, topic))
    return said


def _explain(said: str, what: str, browser: str, topic: str) -> str:
    """The client's complaint in words that say what to do next."""
    if "No module named" in said:
        return f"the Kaggle client cannot be started: {last_words(said)}\n{INSTALL}\n{browser}"
    if re.search(r"\b403\b", said) and topic != "competitions":
        return f"Kaggle refuses {what} (403): is the user's name your own? {last_words(said)}\n{LOG_IN}\n{browser}"
    if re.search(r"\b403\b", said):
        return f"Kaggle refuses {what} (403), as it does until the rules are accepted.\n{RULES}\n{browser}"
    if re.search(r"\b401\b", said) or "Authentication required" in said or "nvalid credentials" in said:
        return f"Kaggle does not accept these credentials.\n{LOG_IN}\n{browser}"
    if any(words in said for words in ("Max retries exceeded", "NameResolution", "ConnectionError", "timed out")):
        return f"Kaggle cannot be reached: is there a network? {last_words(said)}\nStart the same command again."
    return f"the Kaggle client failed. {last_words(said)}\n{STEPS}\n{browser}"


def last_words(said: str) -> str:
    """The last line that the client said, less what is secret."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    words = f"It said: {lines[-1][:500]}" if lines else "It said nothing."
    return masked(words, *secrets())
