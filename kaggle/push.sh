#!/usr/bin/env bash
# Pushes the code to Kaggle as a kernel, which starts: kaggle/push.sh USER [--wait] [--dry-run] [--help]
set -euo pipefail
CDPATH="" builtin cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
source ./setup.sh requirements.txt requirements/kaggle.txt
exec python -m tools.kaggle push "$@"
