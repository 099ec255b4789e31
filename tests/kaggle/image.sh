#!/usr/bin/env bash
# The kernel's rehearsal, the tests of networks, JAX and heat maps on the versions of Kaggle's image: tests/kaggle/image.sh [of pytest]
# Before them, networks that are saved with the image's Keras are loaded with the one of requirements.txt.
# Makes a virtual environment of its own in cache/kaggle/image, with Python 3.13 or 3.12 ($PYTHON names another).
set -euo pipefail
CDPATH="" builtin cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.."
environment=cache/kaggle/image
if [ ! -x "$environment/bin/python" ]; then
    for python in ${PYTHON:+"$PYTHON"} python3.13 python3.12 none; do
        if "$python" -c 'import sys; sys.exit(not (3, 12) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then break; fi
    done
    if [ "$python" = none ]; then
        echo "error: expected Python 3.12 or 3.13, as in Kaggle's image. Name one: PYTHON=/path/to/python3.13 $0" >&2
        exit 2
    fi
    "$python" -m venv "$environment"
fi
"$environment/bin/python" -m pip install --quiet --disable-pip-version-check -r requirements/kaggle_image.txt
STATEFARM_PACKAGES=installed "$environment/bin/python" -m tools.doctor --packages
if [ -x .venv/bin/python ]; then
    saved="$(mktemp -d)"
    trap 'rm -r "$saved"' EXIT
    "$environment/bin/python" -m tests.kaggle.exchange save "$saved"
    .venv/bin/python -m tests.kaggle.exchange load "$saved"
fi
"$environment/bin/python" -m pytest tests/kaggle tests/models/test_networks.py tests/models/test_jax.py \
    tests/tools/test_explain.py "$@"
