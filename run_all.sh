#!/usr/bin/env bash
# From the competition's photographs to a submission, every stage in order. Safe to run again: finished work is skipped.
#
#     ./run_all.sh              on the data it finds, or on a rendered demo set where there is none
#     ./run_all.sh --help       every option of every stage
set -euo pipefail
export RUN_STARTED="${RUN_STARTED:-$(date +%s)}"  # for --time-budget
export CALLED_FROM="$PWD"  # what relative paths on the command line are relative to
case "${STATEFARM_DATA:-/}" in /*|"~"*) ;; *) export STATEFARM_DATA="$PWD/$STATEFARM_DATA" ;; esac
CDPATH="" builtin cd -- "$(dirname -- "${BASH_SOURCE[0]}")"

source ./setup.sh requirements.txt  # .venv, the first time

# Each stage runs beside this script, which passes on what would stop it: bash alone would wait, or leave it behind.
run() {
    local status=0
    "$@" & stage=$!
    wait "$stage" || status=$?
    stage=
    return "$status"
}
ask() { exec 8< <(exec "$@"); stage=$!; wait "$stage"; stage=; answer="$(cat <&8)"; }
stop() {
    local status=0
    trap '' INT TERM
    if [ -n "${stage:-}" ]; then kill -TERM "$stage" 2>/dev/null; wait "$stage" || status=$?; fi
    if [ "$status" != 130 ]; then echo "stopped. The same command goes on from here; nothing finished is lost." >&2; fi
    exit 130
}
trap stop INT TERM

# The command line, checked as a whole before any work: sets DATA, RUN, MODELS, ... and the options of each stage.
case " $* " in *" --help "* | *" -h "*) exec python -m tools.plan --help ;; esac
ask python -m tools.plan "$@"
eval "$answer"
if [ "$DRY_RUN" = yes ]; then exit; fi

# One of these scripts at a time in a run: the lock ends with this script and the stage that it runs.
exec 9>>"$LOCK"
run python -m common.locks 9 "$LOCK" "$RUN"
trap 'rm -f "$LOCK"' EXIT

# Kaggle's archive -> data/, or no data at all -> a rendered demo set in Kaggle's layout
if [ "$DOWNLOAD" = yes ]; then
    setup_environment requirements.txt requirements-kaggle.txt  # Kaggle's own client too
    run python -m preprocessing.download --out "$DATA"
fi
if [ "$DEMO" = yes ]; then run python -m preprocessing.demo --cache "$CACHE" --seed "$SEED"; fi

# data folder -> every file checked against every table
run python -m preprocessing.check --data "$DATA" "${CHECK_OPTIONS[@]}"

# driver_imgs_list.csv (and --folds-file) -> runs/RUN/folds.csv
run python -m preprocessing.folds --data "$DATA" --run "$RUN" "${FOLDS_OPTIONS[@]}"

# photographs + folds.csv -> runs/RUN/MODEL/fold_K/: the best network, out-of-fold and test predictions
ask python -m tools.ready --models "${MODELS[*]}" --data "$DATA" --run "$RUN" --folds "$FOLDS" "${MODEL_OPTIONS[@]}"
left="$answer"
if [ "$TIME_BUDGET" = none ]; then
    for model in $left; do  # status 3: some folds failed, and the others are finished; the blend says what is missing
        run python "models/$model.py" --data "$DATA" --run "$RUN" --folds "$FOLDS" "${MODEL_OPTIONS[@]}" ||
            { status=$?; [ "$status" -eq 3 ] || exit "$status"; }
    done
else  # the same pieces, in the order of what they bring, as far as the time goes
    run python -m tools.schedule --models "${MODELS[*]}" --time-budget "$TIME_BUDGET" -- \
        --data "$DATA" --run "$RUN" --folds "$FOLDS" "${MODEL_OPTIONS[@]}"
    ask python -m tools.blendable --run "$RUN" --models "${MODELS[*]}" "${RUNS_OPTIONS[@]}"
    read -ra MODELS <<<"$answer"
fi

# prediction tables -> runs/RUN/ensemble/ and submissions/RUN.csv
run python -m ensemble.blend --data "$DATA" --run "$RUN" --models "${MODELS[*]}" "${ENSEMBLE_OPTIONS[@]}"
