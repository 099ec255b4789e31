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
    shutil.copy(os.environ["STAND_IN_ARCHIVE"], Path(option("-p")) / f"{SLUG}.zip")


def publish() -> None:
    metadata = json.loads((Path(option("-p")) / "dataset-metadata.json").read_text())
    dataset = place / metadata["id"].partition("/")[2]
    if words[1] == "create" and dataset.exists():
        print(f'Dataset creation error: The requested slug "{dataset.name}" is already in use by a dataset.')
        return
    assert words[1] == "create" or option("-m")
    kind = "Your private Dataset" if words[1] == "create" else "Dataset version"
    print(f"{kind} is being created. Please check progress at https://www.kaggle.com/{metadata['id']}")
    dataset.touch()


def kernels() -> None:
    if words[1] == "push":
        metadata = json.loads((Path(option("-p")) / "kernel-metadata.json").read_text())
        lacking = [name for name in metadata["dataset_sources"] if not (place / name.partition("/")[2]).exists()]
        if lacking:
            print(f"The following are not valid dataset sources and could not be added to the kernel: {lacking}")
        url = f"https://www.kaggle.com/code/{metadata['id']}"
        print(f"Kernel version 3 successfully pushed.  Please check progress at {url}")
    elif words[1] == "status":
        states = dict(enumerate(("", "QUEUED", "RUNNING")))  # one more each time that someone asks
        state = states.get(count("kernel"), os.environ.get("STAND_IN_ENDS", "COMPLETE"))
        if not state:
            fail("503 Server Error: Service Unavailable for url: https://api.kaggle.com/v1/x")
        print(f'{words[2]} has status "KernelWorkerStatus.{state}"')
    elif words[1] == "logs":
        print((place / "log").read_text(), end="")
    else:
        pattern = re.compile(option("--file-pattern"))
        ignored = lambda folder, names: [name for name in names if not pattern.search(name)]  # noqa: E731
        shutil.copytree(place / "output", option("-p"), ignore=ignored)


if __name__ == "__main__":
    if "KAGGLE_API_TOKEN" not in os.environ:
        fail(NO_LOGIN)
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
