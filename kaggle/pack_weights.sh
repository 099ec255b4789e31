#!/usr/bin/env bash
# Packs pretrained weights and uploads them to Kaggle as a dataset: kaggle/pack_weights.sh USER [--dry-run] [--help]
set -euo pipefail
CDPATH="" builtin cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
source ./setup.sh requirements.txt requirements/kaggle.txt
exec python -m tools.kaggle pack_weights "$@"
