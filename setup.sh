# Sourced by run_all.sh and tests/run.sh, from the repository's root, with the requirement files that they need:
#
#     source ./setup.sh requirements.txt
#
# Makes .venv with the pinned packages and puts it first on the PATH. Does nothing where that was done already.
# With STATEFARM_PACKAGES=installed it takes what `python` has, as in a Kaggle kernel, if that is new enough.

setup_environment() {
    local python lock packages requirements=()
    if [ "${STATEFARM_PACKAGES:-}" = installed ]; then
        python -m preprocessing.packages
        return
    fi
    lock="installed-$(cksum < requirements.lock | tr ' ' '-')"
    packages="$lock-$(cat "$@" | cksum | tr ' ' '-')"
    if [ ! -e ".venv/$packages-$(python_version)" ]; then
        python="$(find_python)" || return 1
        echo "Setting up .venv with $("$python" --version), once. This downloads about 700 MB and takes a few minutes."
        # An interrupted creation leaves a .venv without pip.
        if ! .venv/bin/python -m pip --version >/dev/null 2>&1 && ! { rm -rf .venv && "$python" -m venv .venv; }; then
            rm -rf .venv
            echo "error: $python cannot make virtual environments. On Debian and Ubuntu: apt-get install python3-venv" >&2
            return 1
        fi
        for file in "$@"; do requirements+=(-r "$file"); done
        if ! .venv/bin/python -m pip install --quiet --disable-pip-version-check \
            -c requirements.lock "${requirements[@]}"; then
            echo "error: the packages could not be installed (see above). The same command tries again." >&2
            return 1
        fi
        find .venv -maxdepth 1 -name 'installed-*' ! -name "$lock-*" -delete  # they have been replaced
        touch ".venv/$packages-$(python_version)"
    fi
    export PATH="$PWD/.venv/bin:$PATH"
}

# Of .venv, such as 3.12; nothing where it has none, or one that is gone since.
python_version() { .venv/bin/python -c 'import sys; print(*sys.version_info[:2], sep=".")' 2>/dev/null || true; }

find_python() {
    local candidate
    for candidate in ${PYTHON:+"$PYTHON"} python3 python3.13 python3.12 python3.11; do
        if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    echo "error: expected Python 3.11 to 3.13 (TensorFlow has no build for others yet)," \
        "found $(python3 --version 2>&1). Install one, or name it: PYTHON=/path/to/python3.12 $0" >&2
    return 1
}

# One at a time: two first starts would each remove what the other has begun. Where flock says anything else than
# 'another has it' (1), this file system has no such locks, and things go on without.
wait_for_other_start() {
    local status=0
    if command -v flock >/dev/null; then flock --nonblock 9 2>/dev/null || status=$?; fi
    if [ "$status" -eq 1 ]; then
        echo "Waiting for another start that sets up .venv (Ctrl-C ends this)." >&2
        flock 9
    fi
}

{
    wait_for_other_start
    setup_environment "$@"
} 9< setup.sh
