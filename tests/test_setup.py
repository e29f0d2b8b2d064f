"""What `make setup` does about a missing Python or venv module: apt where it may, else the line to type."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

FIND = Path(__file__).parents[1] / ".ci" / "find-python"


@pytest.fixture
def machine(tmp_path):
    """A machine with nothing but bash and the stand-ins a test puts on its path. Returns (put, run)."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("bash", "env"):
        (programs / name).symlink_to(shutil.which(name))

    def put(name, script):
        path = programs / name
        path.write_text(f"#!{programs}/bash\n{script}\n")
        path.chmod(0o755)

    def run(*arguments):
        command = [programs / "bash", FIND, *arguments]
        return subprocess.run(command, env={"PATH": str(programs)}, capture_output=True, text=True)

    put("id", "echo 1000")
    return put, run


REAL = f'exec {sys.executable} "$@"'
OLD = 'case "$*" in *version_info*) exit 1;; *) echo Python 3.9.1;; esac'
NO_VENV = f'case "$*" in *ensurepip*) exit 1;; *) {REAL};; esac'
APT = 'echo "apt-get $*" >&2'
VENV_PACKAGE = f"python{sys.version_info.major}.{sys.version_info.minor}-venv"


def test_the_first_new_enough_python_is_taken(machine):
    put, run = machine
    put("python3", OLD)
    put("python3.12", REAL)
    found = run()
    assert found.returncode == 0, found.stderr
    assert os.path.basename(found.stdout.strip()) == "python3.12"
    assert not found.stderr


def test_a_named_python_that_is_too_old_is_refused(machine):
    put, run = machine
    put("python3", REAL)
    put("mine", OLD)
    found = run("mine")
    assert found.returncode == 1
    assert "mine is not a Python 3.11 or newer" in found.stderr


def test_without_rights_the_line_to_type_is_printed(machine):
    put, run = machine
    put("python3", NO_VENV)
    put("apt-get", APT)
    found = run()
    assert found.returncode == 1
    assert f"sudo apt-get install -y --no-install-recommends {VENV_PACKAGE}" in found.stderr
    assert "run make again" in found.stderr


def test_root_installs_by_itself(machine):
    put, run = machine
    put("id", "echo 0")
    put("python3", NO_VENV)
    put("apt-get", APT)
    found = run()
    assert found.returncode == 0, found.stderr
    assert f"apt-get install -y --no-install-recommends {VENV_PACKAGE}" in found.stderr
    assert "apt-get update" in found.stderr


def test_sudo_without_password_is_used(machine):
    put, run = machine
    put("sudo", '[ "$1" = -n ] && shift; [ "$1" = true ] && exit 0; echo "sudo $*" >&2')
    put("python3", NO_VENV)
    put("apt-get", APT)
    found = run()
    assert found.returncode == 0, found.stderr
    assert "sudo env DEBIAN_FRONTEND=noninteractive apt-get install" in found.stderr


def test_an_old_system_python_gets_a_newer_one_beside_it(machine):
    put, run = machine
    put("id", "echo 0")
    put("python3", OLD)
    move = f'{shutil.which("mv")} "${{0%/*}}/real" "${{0%/*}}/python3.11"'
    put("apt-get", f'{APT}; case "$*" in install*python3.11*) {move};; esac')
    put("real", REAL)
    found = run()
    assert found.returncode == 0, found.stderr
    assert os.path.basename(found.stdout.strip()) == "python3.11"


def test_a_failing_apt_and_no_apt_say_what_is_missing(machine):
    put, run = machine
    put("id", "echo 0")
    put("python3", NO_VENV)
    found = run()
    assert found.returncode == 1
    assert f"missing: {VENV_PACKAGE}" in found.stderr and "package manager" in found.stderr
    put("apt-get", "exit 100")
    found = run()
    assert found.returncode == 1
    assert f"type: sudo apt-get install -y --no-install-recommends {VENV_PACKAGE}" in found.stderr
