"""setup.sh: .venv is made, completed and corrected, never deleted; a user's shell settings change nothing."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from common.run_folder import REPOSITORY
from tests.commands import run_python


def write_program(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


REAL = str(Path(sys.executable).resolve())
PIP = """
import os, signal, sys, time
if "--version" not in sys.argv:
    open("installed.txt", "a").write(" ".join(sys.argv[1:]) + "\\n")
    if os.path.exists("interrupt"):
        os.killpg(0, signal.SIGINT)
        time.sleep(60)
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with setup.sh, and a `python3` whose virtual environments have a stand-in for pip: no downloads."""
    root = tmp_path / "checkout"
    for folder in (root / "requirements", tmp_path / "pip"):
        folder.mkdir(parents=True)
    shutil.copy(REPOSITORY / "setup.sh", root)
    for name in ("requirements.txt", "requirements/lock.txt"):
        (root / name).write_text("")
    (tmp_path / "pip" / "__init__.py").write_text("")
    (tmp_path / "pip" / "__main__.py").write_text(PIP)
    make = f'"{REAL}" -m venv --without-pip "$3" && cp -R "{tmp_path}/pip" "$3"/lib/python*/site-packages/'
    write_program(tmp_path / "bin" / "python3", f'if [ "$1 $2" = "-m venv" ]; then {make}; else exec "{REAL}" "$@"; fi')
    return root


def set_up(
    checkout: Path, then: str = "python -c 'import sys; print(sys.prefix)'", **variables: str
) -> subprocess.CompletedProcess[str]:
    """Sources setup.sh as our scripts do, and runs a command after it; prints where `python` is by default."""
    code = f"set -euo pipefail; cd '{checkout}'; source ./setup.sh requirements.txt; {then}"
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "STATEFARM"))}
    environment |= {"PATH": f"{checkout.parent / 'bin'}:/usr/bin:/bin"} | variables
    return subprocess.run(
        ["bash", "-c", code],
        cwd=checkout.parent,
        env=environment,
        capture_output=True,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored where tests run in the background
    )


def last_line(text: str) -> str:
    return text.splitlines()[-1] if text else ""


def test_it_is_made_once_and_updated_when_the_requirements_change(checkout: Path) -> None:
    first = set_up(checkout)
    assert (first.returncode, last_line(first.stdout)) == (0, str(checkout / ".venv")), first
    assert "Setting up .venv" in first.stderr
    assert set_up(checkout).stdout == f"{checkout / '.venv'}\n"
    assert len((checkout / "installed.txt").read_text().splitlines()) == 1
    (checkout / "requirements.txt").write_text("# another\n")
    again = set_up(checkout)
    assert (again.returncode, last_line(again.stdout)) == (0, str(checkout / ".venv")), again
    assert len((checkout / "installed.txt").read_text().splitlines()) == 2


@pytest.mark.parametrize("is_there", [False, True])
def test_a_python_that_cannot_be_used_is_reported_and_left_alone(checkout: Path, is_there: bool) -> None:
    set_up(checkout)
    python = checkout / ".venv" / "bin" / "python"
    python.unlink()
    old = f"""exec "{REAL}" -c "import sys; sys.version_info = (3, 9, 1); exec(sys.argv[1])" "$2" """
    write_program(python, old) if is_there else python.symlink_to("/opt/gone/python3.12")
    before = sorted((path, path.lstat().st_mtime_ns) for path in (checkout / ".venv").rglob("*"))
    refused = set_up(checkout)
    assert refused.returncode == 1
    assert last_line(refused.stderr).startswith("error: expected a .venv with a Python 3.11 to 3.13 that runs here")
    assert "mv .venv .venv.old" in refused.stderr
    assert before == sorted((path, path.lstat().st_mtime_ns) for path in (checkout / ".venv").rglob("*"))


def test_after_a_move_activate_and_the_scripts_lead_to_the_new_place(checkout: Path) -> None:
    set_up(checkout)
    script = checkout / ".venv" / "bin" / "tool"
    script.write_text(f"#!{checkout}/.venv/bin/python\nimport sys; print(sys.prefix)\n")
    script.chmod(0o755)
    moved = checkout.rename(checkout.with_name("moved"))
    done = set_up(moved, "tool")
    assert (done.returncode, done.stdout) == (0, f"{moved}/.venv\n"), done
    assert "have been corrected" in done.stderr
    assert set_up(moved, "source .venv/bin/activate; type -P python").stdout == f"{moved}/.venv/bin/python\n"
    spaced = moved.rename(moved.with_name("my copy"))
    told = set_up(spaced)
    assert (told.returncode, last_line(told.stdout)) == (0, f"{spaced}/.venv"), told
    assert ".venv/bin/python instead of python" in told.stderr


@pytest.mark.parametrize(
    ("chosen", "words"),
    [
        ("/opt/nope/python3.12", "No such file or directory"),
        ("bin/python3.9", "found: 3.9"),
        ("bin/broken", "does not run: out of order"),
    ],
)
def test_a_chosen_python_that_cannot_be_used_is_an_error(checkout: Path, chosen: str, words: str) -> None:
    write_program(checkout.parent / "bin" / "python3.9", "echo 3.9")
    write_program(checkout.parent / "bin" / "broken", "echo 'out of order' >&2; exit 1")
    refused = set_up(checkout, PYTHON=chosen)
    assert (refused.returncode, words in refused.stderr) == (1, True), refused
    assert refused.stderr.startswith("error: PYTHON=")
    assert not (checkout / ".venv").exists()


def test_a_chosen_python_makes_it_and_another_version_is_refused_later(checkout: Path) -> None:
    shutil.copy(checkout.parent / "bin" / "python3", checkout.parent / "chosen")
    write_program(checkout.parent / "bin" / "python3", "echo 'python3 was not chosen' >&2; exit 1")
    done = set_up(checkout, PYTHON="./chosen")
    assert (done.returncode, last_line(done.stdout)) == (0, f"{checkout}/.venv"), done
    write_program(
        checkout.parent / "newer", f'"{REAL}" -c "import sys; print(3, 24 - sys.version_info[1], sep=chr(46))"'
    )
    refused = set_up(checkout, PYTHON="./newer")
    assert (refused.returncode, "was made with Python" in refused.stderr) == (1, True), refused


def test_what_a_user_has_set_for_other_programs_changes_nothing(checkout: Path) -> None:
    set_up(checkout)
    noise = checkout.parent / "noise"
    noise.mkdir()
    (noise / "json.py").write_text("raise SystemExit('the wrong json')")
    variables = {"PYTHONHOME": "/nowhere", "PYTHONPATH": str(noise), "PYTHONSAFEPATH": "1", "PYTHONOPTIMIZE": "2"}
    variables |= {"PYTHONWARNINGS": "error", "PYTHONIOENCODING": "ascii", "LC_ALL": "xx_YY.ISO-8859-1"}
    variables |= {"PYTHONINSPECT": "1", "GREP_OPTIONS": "-v", "CDPATH": str(checkout.parent), "POSIXLY_CORRECT": "1"}
    (checkout / "here.py").write_text("import json, sys; assert sys.flags.optimize == 0; print('\u00d7')")
    done = set_up(checkout, "python -m here", **variables)
    assert (done.returncode, done.stdout) == (0, "\u00d7\n"), done.stderr


@pytest.mark.parametrize("name", ["run_all.sh", "tests/run.sh", "kaggle/push.sh", "kaggle/pack_weights.sh", ".ci/run"])
def test_a_script_runs_its_own_checkout_whatever_the_shell(tmp_path: Path, name: str) -> None:
    for clone in ("repo", "other/repo"):
        script = tmp_path / clone / name
        script.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPOSITORY / name, script)
        (tmp_path / clone / "tests").mkdir(exist_ok=True)
        for sourced in ("setup.sh", "tests/run.sh"):
            if sourced != name:
                write_program(tmp_path / clone / sourced, f"echo from {clone}; exit 0")
    variables = os.environ | {"CDPATH": str(tmp_path / "other")}
    assert subprocess.check_output(["bash", f"repo/{name}"], cwd=tmp_path, env=variables) == b"from repo\n"


@pytest.mark.slow
@pytest.mark.parametrize("file", ["dev.txt", "export.txt", "kaggle.txt", "logging.txt"])
def test_the_packages_for_one_purpose_fit_beside_the_lock(file: str) -> None:
    words = "-m pip install --dry-run --quiet --disable-pip-version-check --retries 0 -c requirements/lock.txt -r"
    done = run_python(*words.split(), f"requirements/{file}", timeout=600)
    if "Failed to establish a new connection" in done.stderr:
        pytest.skip("needs a package index")
    assert done.returncode == 0, done.stderr


def test_ctrl_c_while_packages_are_installed_says_how_to_go_on(checkout: Path) -> None:
    (checkout / "interrupt").touch()
    stopped = set_up(checkout)
    assert (stopped.returncode, "The same command goes on from here" in stopped.stderr) == (130, True), stopped
    (checkout / "interrupt").unlink()
    assert last_line(set_up(checkout).stdout) == f"{checkout}/.venv"
