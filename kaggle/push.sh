#!/usr/bin/env bash
# Builds the code bundle and pushes it, and the kernel, to Kaggle: kaggle/push.sh USER [--dry-run] [--help]
set -euo pipefail
CDPATH="" builtin cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
source ./setup.sh requirements.txt requirements/kaggle.txt
exec python -m tools.kaggle_push "$@"
