#!/usr/bin/env bash
# From the competition's photographs to a submission. Safe to run again: finished work is skipped.
#
#     ./run_all.sh              on the data it finds, or on a rendered demo set where there is none
#     ./run_all.sh --help       the everyday options
set -euo pipefail
export RUN_STARTED="${RUN_STARTED:-$(date +%s)}"  # for --time-budget
export CALLED_FROM="$PWD"  # what relative paths on the command line are relative to
case "${STATEFARM_DATA:-/}" in /*|"~"*) ;; *) export STATEFARM_DATA="$PWD/$STATEFARM_DATA" ;; esac
CDPATH="" builtin cd -- "$(dirname -- "${BASH_SOURCE[0]}")"
packages=(requirements.txt)
case " $* " in *" --download "*) packages+=(requirements/kaggle.txt) ;; esac  # Kaggle's client
source ./setup.sh "${packages[@]}"  # .venv, the first time
exec python -m pipeline "$@"
