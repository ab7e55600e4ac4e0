#!/usr/bin/env bash
# Makes .venv with the pinned packages where it is missing or out of date.
#   tools/environment.sh course   what runs the course (requirements.txt)
#   tools/environment.sh tests    and what tests it (requirements-dev.txt)
#   tools/environment.sh nbgrader .venv-nbgrader, what instructors/ asks for
#   tools/environment.sh python   prints the Python 3.11 that .venv would use
set -euo pipefail
CDPATH= cd -- "$(dirname -- "$0")/.."

fail() {
    echo "$1" >&2
    exit 1
}

is_311='import sys; assert sys.version_info[:2] == (3, 11)'

# Prints the first python3.11 or python3 on the PATH that runs the code $1.
# Each is tried: the shim of a version manager can be there and fail. The one
# in .venv is passed over, since .venv may be about to be made anew.
find_python() {
    local IFS=: folder name
    for name in python3.11 python3; do
        for folder in $PATH; do
            if [[ -x $folder/$name && ! $folder -ef .venv/bin ]] &&
                "$folder/$name" -c "$1; print(sys.executable)" 2>/dev/null; then
                return
            fi
        done
    done
    return 1
}

base_python() {
    find_python "$is_311; import ensurepip, venv" && return
    if python=$(find_python "$is_311"); then
        fail "$python cannot make virtual environments: install its venv module (Debian, Ubuntu: apt-get install python3.11-venv)."
    fi
    fail "The course needs Python 3.11, the version that its packages are pinned for, and found $(python3 --version 2>/dev/null || echo "no Python 3"): install Python 3.11 (python.org, pyenv, conda or your system's packages) so that python3.11 is on the PATH."
}

# .venv/unfinished is there while something is being installed: where it is
# found, the last installation was interrupted and .venv cannot be trusted.
works() {
    [[ ! -e .venv/unfinished ]] && .venv/bin/python -c "$is_311" 2>/dev/null
}

has_pip() {
    .venv/bin/python -m pip --version >/dev/null 2>&1
}

install() {  # $1: a requirements file
    if ! works || ! has_pip; then
        base=$(base_python)
        rm -rf .venv
        mkdir .venv
        touch .venv/unfinished
        "$base" -m venv .venv
    fi
    touch .venv/unfinished
    echo "Installing the pinned packages (a few minutes the first time)"
    .venv/bin/python -m pip install --quiet --disable-pip-version-check \
        -r "$1" -c constraints.txt ||
        fail "The packages could not be installed (pip says why above): check the network and the free disk space, then run make again."
    rm .venv/unfinished
}

# $1: a folder, $2: where its requirements.txt and constraints.txt are
apart() {
    local pins base
    pins=$(cat "$2/requirements.txt" "$2/constraints.txt" | cksum)
    if [[ $(cat "$1/installed" 2>/dev/null) == "$pins" ]]; then return; fi
    base=$(base_python)
    rm -rf "$1"
    "$base" -m venv "$1"
    echo "Installing nbgrader into $1 (a few minutes the first time)"
    "$1/bin/python" -m pip install --quiet --disable-pip-version-check \
        -r "$2/requirements.txt" -c "$2/constraints.txt" ||
        fail "nbgrader could not be installed (pip says why above): check the network and the free disk space, then run make again."
    echo "$pins" >"$1/installed"
}

case ${1-} in
    python) base_python; exit ;;
    nbgrader) apart .venv-nbgrader instructors; exit ;;
    course) file=requirements.txt ;;
    tests) file=requirements-dev.txt ;;
    *) fail "usage: tools/environment.sh course|tests|nbgrader|python" ;;
esac
if [[ $1 == tests ]] && ! command -v git >/dev/null; then
    fail "The tests need git: install it (Debian, Ubuntu: apt-get install git)."
fi

pins=$(cat requirements.txt requirements-dev.txt constraints.txt | cksum)
stamp=.venv/installed
installed=$(cat "$stamp" 2>/dev/null || true)
if works && [[ $installed == "$1 $pins" || $installed == "tests $pins" ]]; then
    exit 0
fi
install "$file"
echo "$1 $pins" >"$stamp"
