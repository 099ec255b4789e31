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
}
BACKENDS = {"tensorflow": (("tensorflow", "tensorflow-cpu"), "2.18.0"), "jax": (("jax",), "0.6.2")}
WHAT_TO_DO = (
    "In a Kaggle notebook: Settings, Environment, 'Always use latest environment' (a kernel that is pushed takes the "
    "latest unless its docker_image says otherwise). Elsewhere: unset STATEFARM_PACKAGES, and .venv is made."
)


def check_installed() -> list[str]:
    """Checks every package whose version matters; returns what is installed, as 'keras 3.10.0'.

    Raises:
        UserError: some are missing, or older than the oldest that was tried.
    """
    faults = [] if sys.version_info >= (3, 11) else [f"Python 3.11 or newer, found {sys.version.split()[0]}"]
    found, backend = [], keras_backend()
    for names, lowest in [*LOWEST.items(), *([BACKENDS[backend]] if backend in BACKENDS else [])]:
        version = max((version_of(name) for name in names), key=Version)
        if Version(version) < Version(lowest):
            faults.append(f"{names[0]} {lowest} or newer, found {'none' if version == '0' else version}")
        else:
            found.append(f"{names[0]} {version}")
    if faults:
        raise UserError(f"the packages of this machine are too old: expected {'; '.join(faults)}. {WHAT_TO_DO}")
    return found


def version_of(package: str) -> str:
    """The version that is installed; 0 where there is none."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "0"


if __name__ == "__main__":
    run_command(lambda: print("packages " + ", ".join(check_installed()), file=sys.stderr))
