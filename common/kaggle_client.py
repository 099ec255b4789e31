"""Kaggle's own client, run as a process. Where it fails, its own words are shown, and what to do next."""

import contextlib
import io
import os
import re
import sys
from pathlib import Path
from subprocess import DEVNULL, PIPE, STDOUT, Popen

from common.competition import SLUG
from common.errors import UserError, masked

PAGE = f"https://www.kaggle.com/competitions/{SLUG}"
STEPS = f"""What to do:
  1. Accept the rules of the competition once, in a browser: {PAGE}/rules
  2. Install the client: .venv/bin/python -m pip install -r requirements/kaggle.txt
  3. Log in, in a browser: .venv/bin/kaggle auth login (or with a token: docs/quickstart.md)
  4. Start the same command again; if Kaggle or the network failed, again later."""
# It exits with 0 all the same. A dataset that is there already gets a new version.
REFUSAL = r"^(Dataset( version)? creation|Kernel push) error: (?!.*already in use)|^The following are not valid"


def run_client(*words: str, browser: str, show: bool = False) -> str:
    """Runs `kaggle WORDS`, and returns what it answers. Where it fails, a UserError has its words and what to do.

    Args:
        browser: a line that says how a person can do it without the client.
        show: print what it answers, as it comes.
    """
    # A process of its own: the client logs in when merely imported. -P: this repository has a kaggle/ too.
    command = [sys.executable, "-P", "-m", "kaggle", *words]
    answer, hidden = "", secrets()
    with Popen(command, stdin=DEVNULL, stdout=PIPE, stderr=STDOUT) as process:
        try:  # newline="": the lines of a progress bar end with a carriage return, and are shown as they are
            for line in io.TextIOWrapper(process.stdout, "utf-8", "replace", newline=""):  # type: ignore[type-var]
                answer += line
                if show:
                    print(masked(line, *hidden), end="", flush=True)
            process.wait()
        finally:
            process.terminate()  # does nothing to one that has ended
    if process.returncode or re.search(REFUSAL, answer, re.MULTILINE):
        said = masked("\n".join(answer.strip().splitlines()[-18:]), *hidden) or "nothing"  # how to log in takes 18
        raise UserError(f"Kaggle's client failed. It said: {said}\n{STEPS}\n{browser}")
    return answer


def secrets() -> list[str]:
    """Every text that must not be repeated in a message: tokens and keys, in variables and in the client's files."""
    home, variables = Path.home(), os.environ
    folders = [home / ".kaggle", Path(variables.get("XDG_CONFIG_HOME") or home / ".config") / "kaggle"]
    folders += [Path(variables.get("KAGGLE_CONFIG_DIR") or home)]
    names = ("kaggle.json", "credentials.json", "access_token", "access_token.txt")
    texts = [variables.get(name, "") for name in ("KAGGLE_API_TOKEN", "KAGGLE_KEY")]
    files = [folder / name for folder in folders for name in names]
    for path in [*files, Path(variables.get("KAGGLE_API_V1_TOKEN_PATH", ""))]:
        with contextlib.suppress(OSError):
            texts.append(path.read_text("utf-8", "replace"))
    return [secret for text in texts for secret in re.findall(r'(?:(?:key|token)": *"|\A\s*)([^"{\s]{4,})', text)]
