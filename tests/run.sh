#!/usr/bin/env bash
# All checks: lint, types, tests. Sets itself up. `--all` adds the slow tests;
# any other argument goes to pytest: ./tests/run.sh tests/ensemble -k weights
set -euo pipefail
CDPATH="" builtin cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."

requirements=(requirements.txt requirements/dev.txt)
marks="not slow"
if [ "${1:-}" = --all ]; then
    shift
    marks=""
    requirements+=(requirements/ray.txt)
fi
source ./setup.sh "${requirements[@]}"
python -m ruff check .
python -m ruff format --check .
python -m mypy
# A test process a core: more threads in each would only wait for one another.
export STATEFARM_THREADS=1 OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 TF_NUM_INTRAOP_THREADS=1
python -m pytest --numprocesses auto --dist worksteal -m "$marks" "$@"
