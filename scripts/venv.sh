#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Makes .venv, or what VENV names, and installs the given requirement files into it. A file
# whose text has not changed since it was installed is not looked at again.
#
# Usage: venv.sh PYTHON FILE...
set -eu

python=$1
venv=${VENV:-.venv}
shift
cd "$(dirname "$0")/.."

make_venv() {
    echo "venv: making $venv with $("$python" --version)"
    "$python" -m venv --clear "$venv"
}

# Only a Python that was asked for by name replaces the one of an environment that is there.
if ! [ -x "$venv/bin/python" ]; then
    make_venv
elif [ "$python" != python3 ] && [ "$("$python" --version)" != "$("$venv/bin/python" --version)" ]; then
    make_venv
fi

install() { # install FILE
    stamp=$venv/.installed-$(sha256sum < "$1" | cut -c 1-16)
    [ ! -f "$stamp" ] || return 0
    echo "venv: installing $(grep -v -e '^#' -e '^$' "$1" | sed 's/ *;.*//' | paste -s -d ' ')"
    # The folder of the file is where its own -r and relative paths start.
    "$venv/bin/python" -m pip --disable-pip-version-check install --quiet -r "$1" ||
        { echo "venv: pip could not install $1" >&2; exit 1; }
    : > "$stamp"
}

for file; do
    install "$file"
done
