"""Stands in for Kaggle's client 2.2.5 (`python -m kaggle`): the same command line, messages and exit statuses.

What Kaggle would keep lies in the folder $STAND_IN. $STAND_IN_SAYS is printed instead of any answer.
"""

import csv
import json
import os
import re
import shutil
import sys
from pathlib import Path

SLUG = "state-farm-distracted-driver-detection"
NO_LOGIN = """Authentication required to call the Kaggle API.

Recommended: log in with OAuth via a web-based authorization flow.
    kaggle auth login

If you'd rather not use OAuth, generate an API token at
  https://www.kaggle.com/settings/api  (click "Generate New Token" under "API")
and supply it to the CLI in one of these ways:

  Option A: Environment variable
    export KAGGLE_API_TOKEN=xxxxxxxxxxxxxx  # token copied from the settings UI"""
FORBIDDEN = """403 Client Error: Forbidden for url: https://api.kaggle.com/v1/x

You don't have access to this resource.
If this is a competition, you may need to accept its rules first at
  https://www.kaggle.com/competitions/<competition>/rules"""
NOT_FOUND = """404 Client Error: Not Found for url: https://api.kaggle.com/v1/x

The resource was not found. Check the spelling of the reference you passed.
References are usually '<owner>/<slug>', which you can find in the resource's URL.
To search for one, try 'kaggle search <query>'."""
STATES = ("QUEUED", "RUNNING")  # of a kernel, one more each time that someone asks

words = sys.argv[1:]
place = Path(os.environ.get("STAND_IN", ""))


def option(name: str) -> str:
    return words[words.index(name) + 1]


def count(name: str) -> int:
    """How often it was asked before, by this name."""
    path = place / f"{name}.count"
    before = int(path.read_text()) if path.exists() else 0
    path.write_text(str(before + 1))
    return before


def fail(text: str) -> None:
    print(text, file=sys.stderr)
    sys.exit(1)


def submissions() -> None:
    path = place / "submissions.csv"
    rows = list(csv.reader(path.open())) if path.exists() else []
    if words[1] == "submit":
        assert words[:4] == ["competitions", "submit", "-q", SLUG], words
        assert Path(option("-f")).is_file()
        rows.insert(0, ["1", Path(option("-f")).name, "2026-01-01", option("-m"), "SubmissionStatus.PENDING", "", ""])
        print("Submission ref: 1\nSuccessfully submitted to State Farm Distracted Driver Detection", end="")
    else:
        assert words == ["competitions", "submissions", "-q", SLUG, "-v", "--page-size", "50"], words
        print("Warning: Looks like you're using an outdated `kaggle` version (installed: 2.2.5)")
        writer = csv.writer(sys.stdout)
        writer.writerow(["ref", "fileName", "date", "description", "status", "publicScore", "privateScore"])
        writer.writerows(rows)
        for row in rows:  # scored by the next time that someone asks
            row[4:] = [os.environ.get("STAND_IN_RESULT", "SubmissionStatus.COMPLETE"), "0.25", "0.31"]
    csv.writer(path.open("w", newline="")).writerows(rows)


def download() -> None:
    assert words[:4] == ["competitions", "download", "-q", SLUG], words
    if "-f" in words:
        assert "--unzip" in words, "Kaggle compresses single files"
        shutil.copy(os.environ["STAND_IN_FILES"] + "/" + option("-f"), option("-p"))
    else:
        shutil.copy(os.environ["STAND_IN_ARCHIVE"], Path(option("-p")) / f"{SLUG}.zip")


def publish() -> None:
    metadata = json.loads((Path(option("-p")) / "dataset-metadata.json").read_text())
    user, _, slug = metadata["id"].partition("/")
    known, url = (place / slug).exists(), f"https://www.kaggle.com/{user}/{slug}"
    if words[1] == "create" and known:
        print(f'Dataset creation error: The requested slug "{slug}" is already in use by a dataset.')
    elif words[1] == "create":
        (place / slug).touch()
        print(f"Your private Dataset is being created. Please check progress at {url}")
    else:
        assert option("-m")
        print(f"Dataset version is being created. Please check progress at {url}")


def kernels() -> None:
    if words[1] == "push":
        metadata = json.loads((Path(option("-p")) / "kernel-metadata.json").read_text())
        lacking = [name for name in metadata["dataset_sources"] if not (place / name.partition("/")[2]).exists()]
        if lacking:
            print(f"The following are not valid dataset sources and could not be added to the kernel: {lacking}")
        url = f"https://www.kaggle.com/code/{metadata['id']}"
        print(f"Kernel version 3 successfully pushed.  Please check progress at {url}")
    elif words[1] == "status":
        before = count("kernel") - 1
        if before < 0:
            fail("503 Server Error: Service Unavailable for url: https://api.kaggle.com/v1/x")
        state = STATES[before] if before < len(STATES) else os.environ.get("STAND_IN_ENDS", "COMPLETE")
        print(f'{words[2]} has status "KernelWorkerStatus.{state}"')
    elif words[1] == "logs":
        print(*(place / "log").read_text().splitlines(), sep="\n", flush=True)
    else:
        source = place / "output"
        for path in sorted(path for path in source.rglob("*") if path.is_file()):
            name = str(path.relative_to(source))
            if re.search(option("--file-pattern"), name):
                (Path(option("-p")) / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, Path(option("-p")) / name)


if __name__ == "__main__":
    files = [".kaggle/kaggle.json", ".kaggle/access_token", ".kaggle/credentials.json", ".config/kaggle/kaggle.json"]
    pair = "KAGGLE_USERNAME" in os.environ and "KAGGLE_KEY" in os.environ
    if not (os.environ.get("KAGGLE_API_TOKEN") or pair or any((Path.home() / name).is_file() for name in files)):
        print(NO_LOGIN)
        sys.exit(1)
    if "STAND_IN_SAYS" in os.environ:
        fail(os.environ["STAND_IN_SAYS"])
    with (place / "calls").open("a") as stream:
        stream.write(json.dumps(words) + "\n")
    if words[0] == "competitions":
        download() if words[1] == "download" else submissions()
    elif words[:2] == ["datasets", "status"]:
        if not (place / words[2].partition("/")[2]).exists():
            fail(FORBIDDEN)  # as for another's private dataset: Kaggle does not say that there is none
        print("ready" if count("dataset") else "blobs_received", end="")
    elif words[0] == "datasets":
        publish()
    else:
        kernels()
