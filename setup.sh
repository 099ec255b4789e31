# Sourced by run_all.sh, tests/run.sh and kaggle/*.sh, from the repository's root, with the requirement files they need:
#
#     source ./setup.sh requirements.txt
#
# Makes .venv with the pinned packages and puts it first on the PATH. Does nothing where that was done already.
# Never deletes a .venv: it may be in use, or another user's. With STATEFARM_PACKAGES=installed it takes what `python`
# has, as in a Kaggle kernel, if that is new enough.

VERSION='import sys; print(*sys.version_info[:2], sep=".")'

# What Python reads before any of our code runs: none of it changes a result, or keeps Python from starting.
for name in "${!PYTHON@}"; do
    case "$name" in
        PYTHON | PYTHONUNBUFFERED | PYTHONDONTWRITEBYTECODE | PYTHONPYCACHEPREFIX) ;;
        PYTHONPATH | PYTHONHOME | PYTHONUSERBASE | PYTHONNOUSERSITE)  # where the installed packages are
            if [ "${STATEFARM_PACKAGES:-}" != installed ]; then unset "$name"; fi ;;
        *) unset "$name" ;;
    esac
done

setup_environment() {
    local lock packages version file requirements=()
    if [ "${STATEFARM_PACKAGES:-}" = installed ]; then
        python -m tools.doctor --packages
        return
    fi
    unset BASH_ENV CDPATH
    export PYTHONUTF8=1  # whatever the locale
    lock="installed-$(cksum < requirements/lock.txt | tr ' ' '-')"
    packages="$lock-$(cat "$@" | cksum | tr ' ' '-')"
    check_chosen_python || return 1
    version="$(python_version 2>/dev/null)" || version=
    if [ ! -e ".venv/$packages-${version:-none}" ]; then
        make_environment || return 1
        for file in "$@"; do requirements+=(-r "$file"); done
        if ! .venv/bin/python -m pip install --quiet --disable-pip-version-check \
            -c requirements/lock.txt "${requirements[@]}" >.venv/setup.log 2>&1; then
            tail -n 5 .venv/setup.log >&2
            echo "error: the packages could not be installed (all of pip's output: .venv/setup.log). The same command" \
                "tries again." >&2
            return 1
        fi
        find .venv/ -maxdepth 1 -name 'installed-*' ! -name "$lock-*" -delete  # they have been replaced
        touch ".venv/$packages-$(python_version)"
    fi
    correct_scripts
    export PATH="$PWD/.venv/bin:$PATH"
}

# A .venv with pip in it.
make_environment() {
    local python message
    if [ ! -e .venv/bin/python ] && [ ! -L .venv/bin/python ] && [ ! -e .venv/pyvenv.cfg ] && [ ! -L .venv ]; then
        python="$(find_python)" || return 1
        echo "Setting up .venv with $("$python" --version), once. This downloads about 700 MB and takes a few minutes." >&2
    elif ! message="$(python_version 2>&1)"; then
        echo "error: expected a .venv with a Python 3.11 to 3.13 that runs here; .venv/bin/python says:" \
            "${message##*$'\n'}. Its Python may have been removed, or belong to another user or another machine, so" \
            "nothing was changed. If nobody uses it: mv .venv .venv.old, and the same command makes a new one." >&2
        return 1
    elif [ ! -w .venv ]; then
        echo "error: .venv lacks packages that this version needs, and you cannot write to it. Ask whoever made it to" \
            "start the same command, or work in a clone of your own." >&2
        return 1
    elif .venv/bin/python -m pip --version >/dev/null 2>&1; then
        echo "Installing packages into .venv. This may take a few minutes." >&2
        return
    else
        python=.venv/bin/python  # its creation was interrupted, or it was made without pip
        echo "Setting up .venv with $("$python" --version), which has no pip yet. This may take a few minutes." >&2
    fi
    if ! message="$("$python" -m venv .venv 2>&1)"; then
        printf '%s\n' "$message" >&2
        echo "error: $python could not make .venv (see above). On Debian and Ubuntu it may lack the package" \
            "python3-venv: apt-get install python3-venv" >&2
        return 1
    fi
}

# Of .venv, such as 3.12; fails, and says why, where its Python does not run, is too old or too new, or is not its own.
python_version() {
    .venv/bin/python -c '
import os, sys
version = ".".join(map(str, sys.version_info[:2]))
if not (3, 11) <= sys.version_info[:2] <= (3, 13):
    sys.exit("this is Python " + version)
if not os.path.samefile(sys.prefix, ".venv"):
    sys.exit("my packages are in " + sys.prefix)
print(version)'
}

# Python's `activate` and the scripts of packages hold the absolute path of .venv: after a move they lead elsewhere.
correct_scripts() {
    local old new="$PWD/.venv"
    [ -f .venv/bin/activate ] || return 0
    old="$(set +eu; source .venv/bin/activate >/dev/null 2>&1; [ "$VIRTUAL_ENV" -ef .venv ] || echo "$VIRTUAL_ENV")"
    if [ -z "$old" ]; then return 0; fi
    if [[ "$new" =~ ^[A-Za-z0-9/._+@,-]{1,100}$ ]] && .venv/bin/python - "$old" "$new" 2>/dev/null <<'END'
import os, pathlib, sys, tempfile

old, new = (os.fsencode(word) for word in sys.argv[1:])
for path in pathlib.Path(".venv/bin").iterdir():
    if path.is_symlink() or not path.is_file():
        continue
    content = path.read_bytes()
    if old in content and b"\0" not in content:
        descriptor, temporary = tempfile.mkstemp(dir=path.parent)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content.replace(old, new))
        os.chmod(temporary, path.stat().st_mode)
        os.replace(temporary, path)
END
    then
        echo "note: .venv was made as $old; its scripts and \`activate\` have been corrected." >&2
    else
        echo "note: .venv was made as $old, so \`activate\` and the scripts in .venv/bin lead there. Type" \
            ".venv/bin/python instead of python; or make a new one: mv .venv .venv.old, and the same command." >&2
    fi
}

# PYTHON is an explicit choice: an error where it cannot be followed.
check_chosen_python() {
    local found made
    if [ -z "${PYTHON:-}" ]; then return; fi
    case "$PYTHON" in /*) ;; */*) PYTHON="$OLDPWD/$PYTHON" ;; esac  # from where the command was typed
    found="$("$PYTHON" -c "$VERSION" 2>&1)" || found="it does not run: ${found##*$'\n'}"
    case "$found" in
        3.11 | 3.12 | 3.13) ;;
        *)
            echo "error: PYTHON=$PYTHON: expected Python 3.11 to 3.13, found: $found. Name another, or leave PYTHON out." >&2
            return 1
            ;;
    esac
    made="$(.venv/bin/python -c "$VERSION" 2>/dev/null)" || return 0
    if [ "$made" != "$found" ]; then
        echo "error: PYTHON=$PYTHON is Python $found, but .venv was made with Python $made. Leave PYTHON out to use it," \
            "or make a new one: mv .venv .venv.old, and the same command." >&2
        return 1
    fi
}

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

stop_set_up() {
    printf '\nstopped. The same command goes on from here; nothing finished is lost.\n' >&2
    exit 130
}

# One at a time: two first starts would disturb one another. Where flock says anything else than
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
    trap stop_set_up INT
    wait_for_other_start
    setup_environment "$@"
    trap - INT
} 9< setup.sh
