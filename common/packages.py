"""Checks that the packages which are installed are new enough, for machines whose own packages are used.

    python -m common.packages

.venv has the versions of requirements.txt. A Kaggle kernel has no internet and so uses its image's; the versions here
are the oldest that were tried.
"""

import sys
from importlib import metadata

from packaging.version import Version

from common.environment import keras_backend
from common.errors import UserError, run_command

LOWEST_PYTHON = (3, 11)
LOWEST = {  # by the names under which a package may be installed
    ("keras",): "3.8.0",
    ("numpy",): "1.26.4",
    ("pandas",): "2.2.2",
    ("scipy",): "1.14.1",
    ("scikit-learn",): "1.2.2",
    ("opencv-python-headless", "opencv-python", "opencv-contrib-python", "opencv-contrib-python-headless"): "4.10.0",
    ("matplotlib",): "3.7.2",
    ("pillow",): "10.0.1",
    ("filelock",): "3.13.1",
    ("packaging",): "23.0",
    ("psutil",): "5",
    ("threadpoolctl",): "3.1",
    ("tqdm",): "4",
}
BACKENDS = {"tensorflow": (("tensorflow", "tensorflow-cpu"), "2.18.0"), "jax": (("jax",), "0.6.2")}
WHAT_TO_DO = (
    "In a Kaggle notebook: Settings, Environment, 'Always use latest environment' (a kernel that is pushed takes the "
    "latest unless its docker_image says otherwise). Elsewhere: unset STATEFARM_PACKAGES, and .venv is made."
)


def check_installed() -> list[str]:
    """Checks every package that the pipeline needs.

    Returns:
        What is installed, as 'keras 3.10.0'.

    Raises:
        UserError: some are missing, or older than the oldest that was tried.
    """
    faults, found = [], []
    if sys.version_info[:2] < LOWEST_PYTHON:
        faults.append(f"Python {'.'.join(map(str, LOWEST_PYTHON))} or newer, found {sys.version.split()[0]}")
    backend = keras_backend()
    for names, lowest in [*LOWEST.items(), *([BACKENDS[backend]] if backend in BACKENDS else [])]:
        versions = [version for name in names if (version := _version(name))]
        if not versions or max(versions) < Version(lowest):
            faults.append(f"{names[0]} {lowest} or newer, found {versions[0] if versions else 'none'}")
        else:
            found.append(f"{names[0]} {versions[0]}")
    if faults:
        raise UserError(f"the packages of this machine are too old: expected {'; '.join(faults)}. {WHAT_TO_DO}")
    return found


def _version(name: str) -> Version | None:
    try:
        return Version(metadata.version(name))
    except metadata.PackageNotFoundError:
        return None


if __name__ == "__main__":
    run_command(lambda: print("packages " + ", ".join(check_installed()), file=sys.stderr))
