"""Kaggle's own client, run as a process. What it answers becomes messages that say what to do next."""

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
REQUIREMENTS = "requirements/kaggle.txt"
INSTALL = f"Install the client: .venv/bin/python -m pip install -r {REQUIREMENTS}"
LOG_IN = (
    "Log in, in a browser: .venv/bin/kaggle auth login. Or get a token at https://www.kaggle.com/settings/api "
    "('Generate New Token') and save it as ~/.kaggle/access_token, or set KAGGLE_API_TOKEN to it (a kaggle.json, or "
    "KAGGLE_USERNAME and KAGGLE_KEY, work too)"
)
RULES = f"Accept the rules of the competition once, in a browser: {PAGE}/rules"
STEPS = f"What to do:\n  1. {RULES}\n  2. {INSTALL}\n  3. {LOG_IN}\n  4. Start this again."
ANSWERS = (  # what the client prints, and what it means; {words} is its last line, {what} was asked for
    (r"No module named", f"the Kaggle client cannot be started: {{words}}\n{INSTALL}"),
    (
        r"\b401\b|Authentication required|nvalid credentials",
        f"Kaggle wants a login: there are no valid credentials on this machine.\n{STEPS}",
    ),
    (r"^competitions\n.*\b403\b", f"Kaggle refuses {{what}} (403), as it does until the rules are accepted.\n{RULES}"),
    (r"\b403\b|was denied", f"Kaggle refuses {{what}} (403): is the user's name your own? {{words}}\n{LOG_IN}"),
    (r"\b404\b", "Kaggle does not find {what} (404). {words}"),
    (r"\b429\b|\b50[0-9] Server", "Kaggle is busy or limits requests. {words}\nStart the same command again later."),
    (
        r"Max retries exceeded|NameResolution|ConnectionError|timed out",
        "Kaggle cannot be reached: is there a network? {words}\nStart the same command again.",
    ),
)


def install() -> None:
    """Installs the client into this environment, where it is missing.

    Raises:
        UserError: it cannot be installed.
    """
    find = "import importlib.util as util, sys; sys.exit(util.find_spec('kaggle') is None)"
    if subprocess.run([sys.executable, "-P", "-c", find], check=False).returncode == 0:
        return
    print("installing Kaggle's client", file=sys.stderr)
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
    """Runs `kaggle WORDS`.

    Args:
        what: is asked for, for the message where it is refused, such as 'the download'.
        browser: a line that says how a person can do it without the client.
        meanwhile: called with the process, and may wait for it.
        show: print what it answers, line by line as it comes.

    Returns:
        What it answered.

    Raises:
        UserError: no client, no credentials, rules not accepted, no network, or whatever else it failed with.
    """
    # A process of its own: the client exits and prints when merely imported. -P: this repository has a kaggle/ too.
    command = [sys.executable, "-P", "-m", "kaggle", *words]
    with tempfile.TemporaryFile() as output:
        stdout = subprocess.PIPE if show else output
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=stdout, stderr=subprocess.STDOUT)
        try:
            for line in process.stdout or ():
                print(masked(line.decode("utf-8", "replace"), *secrets()), end="", flush=True)
                output.write(line)
            meanwhile(process)
            process.wait()
        finally:
            process.terminate()  # does nothing to one that has ended
            process.wait()
        output.seek(0)
        answer = output.read().decode("utf-8", "replace")
    if process.returncode == 0:
        return answer
    asked = f"{words[0]}\n{answer}"  # what a refusal means depends on the kind of thing
    unknown = f"the Kaggle client failed. {{words}}\n{STEPS}"
    message = next((text for found, text in ANSWERS if re.search(found, asked, re.DOTALL)), unknown)
    raise UserError(f"{message.format(what=what, words=last_words(answer))}\n{browser}")


def last_words(answer: str) -> str:
    """The last line of an answer that names a fault, else the last line, without secrets. Hints follow the error."""
    lines = [line.strip() for line in answer.splitlines() if line.strip()]
    if not lines:
        return "It said nothing."
    line = next((line for line in reversed(lines) if re.search(r"error\b|not valid", line, re.IGNORECASE)), lines[-1])
    return masked(f"It said: {line[:500]}", *secrets())


def secrets() -> list[str]:
    """Every text that must not be repeated in a message: tokens and keys, in variables and in the client's files."""
    folder = Path.home() / ".kaggle"
    other = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "kaggle"
    folders = (folder, other, Path(os.environ.get("KAGGLE_CONFIG_DIR") or folder))
    names = ("kaggle.json", "credentials.json", "access_token", "access_token.txt")
    found = [os.environ.get(name, "") for name in ("KAGGLE_API_TOKEN", "KAGGLE_KEY", "KAGGLE_API_V1_TOKEN_PATH")]
    for path in [*(place / name for place in folders for name in names), *(Path(text) for text in found if text)]:
        try:
            text = path.read_text(encoding="utf-8").strip()
            value = json.loads(text) if path.suffix == ".json" else {"token": text}
            found += [str(value.get(name, "")) for name in ("key", "token", "access_token", "refresh_token")]
        except (OSError, ValueError, AttributeError):
            continue
    return [secret for secret in found if len(secret) > 3]
