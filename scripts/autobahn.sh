#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Prints the path of Autobahn's `wstest', which it installs first into .venvs/autobahn. That
# runs on Python 2.7 alone: the one in the variable PYTHON27, in PATH, or pyenv's. Where there
# is none it says so and exits with status 77.
#
# Usage: autobahn.sh PYTHON
set -eu

python=$1
cd "$(dirname "$0")/.."
venv=.venvs/autobahn
requirements=requirements/conformance.txt
stamp=$venv/.installed-$(sha256sum < "$requirements" | cut -c 1-16)

fail() {
    echo "autobahn: $*" >&2
    exit 1
}

is_python27() {
    [ "$("$1" -c 'import sys; print(sys.version_info[:2] == (2, 7))' 2> /dev/null)" = True ]
}

# Folders where pyenv keeps its versions.
pyenv_roots() {
    echo "${PYENV_ROOT:-}"
    pyenv root 2> /dev/null || true
    echo "${HOME:-}/.pyenv"
}

find_python27() {
    if [ -n "${PYTHON27:-}" ]; then
        is_python27 "$PYTHON27" || fail "PYTHON27=$PYTHON27 is no Python 2.7"
        echo "$PYTHON27"
    elif is_python27 python2.7; then
        command -v python2.7
    else
        pyenv_roots | while read -r root; do
            for candidate in "$root"/versions/2.7*/bin/python2.7; do
                ! is_python27 "$candidate" || echo "$candidate"
            done
        done | tail -n 1
    fi
}

# 20.15 is the last virtualenv that makes environments of Python 2.7.
make_venv() { # make_venv PYTHON27
    rm -rf .venvs/virtualenv "$venv" &&
        "$python" -m venv .venvs/virtualenv &&
        .venvs/virtualenv/bin/python -m pip --disable-pip-version-check install --quiet \
            'virtualenv>=20.15,<20.16' &&
        .venvs/virtualenv/bin/python -m virtualenv --quiet --python "$1" "$venv" &&
        rm -rf .venvs/virtualenv &&
        "$venv/bin/python" -m pip --disable-pip-version-check install --quiet \
            -r "$requirements" &&
        : > "$stamp"
}

if ! [ -f "$stamp" ]; then
    python27=$(find_python27)
    if [ -z "$python27" ]; then
        echo "autobahn: skipped, there is no Python 2.7 here (PYTHON27=)" >&2
        exit 77
    fi
    echo "autobahn: installing $(grep -v '^#' "$requirements") with $python27" >&2
    log=$(mktemp)
    if ! make_venv "$python27" > "$log" 2>&1; then
        cat "$log" >&2
        rm -f "$log"
        fail "could not install it"
    fi
    rm -f "$log"
fi
echo "$venv/bin/wstest"
