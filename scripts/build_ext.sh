#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Builds the C extensions for an interpreter, next to their sources.
#
#   scripts/build_ext.sh PYTHON
#
# Does nothing where they are up to date. Without a C compiler or the headers of that Python it
# says so and succeeds: pure Python code does the work then. CC and CFLAGS are honoured.
set -eu

if [ $# -ne 1 ]; then
    echo "usage: scripts/build_ext.sh PYTHON" >&2
    exit 2
fi

case $1 in
    */*)
        if ! directory=$(cd "$(dirname "$1")" 2>/dev/null && pwd); then
            echo "build_ext: there is no $1" >&2
            exit 1
        fi
        python=$directory/$(basename "$1")
        ;;
    *) python=$1 ;; # looked up in PATH
esac
cd "$(dirname "$0")/../python/hornbeam"

if ! facts=$("$python" -c '
import sysconfig
print(sysconfig.get_path("include"))
print(sysconfig.get_path("platinclude"))
print(sysconfig.get_config_var("EXT_SUFFIX"))
'); then
    echo "build_ext: $python is not a Python that runs" >&2
    exit 1
fi

include=$(printf '%s\n' "$facts" | sed -n 1p)
platinclude=$(printf '%s\n' "$facts" | sed -n 2p)
suffix=$(printf '%s\n' "$facts" | sed -n 3p)
# The codec, and what else is done once per request.
extensions="_etf_c _http_c"

is_fresh() { # is_fresh NAME FILE
    [ -e "$2" ] || return 1
    for file in "$1"*.[ch]; do
        [ ! "$file" -nt "$2" ] || return 1
    done
}

use_twin() {
    # What was built from other sources may not match the Python modules around it.
    for extension in $extensions; do
        rm -f "$extension$suffix"
    done
    echo "build_ext: $1; the pure Python codec will be used"
    exit 0
}

# Those of other Pythons that were built from older sources do not match the modules around them.
stale=""
for extension in $extensions; do
    for other in "$extension".*.so; do
        [ ! -e "$other" ] || is_fresh "$extension" "$other" || rm -f "$other"
    done
    is_fresh "$extension" "$extension$suffix" || stale="$stale $extension"
done

if [ -z "$stale" ]; then
    exit 0
fi

compiler=${CC:-$(command -v cc || command -v gcc || command -v clang || true)}
[ -n "$compiler" ] || use_twin "there is no C compiler"
command -v "${compiler%% *}" >/dev/null || use_twin "there is no C compiler $compiler"
[ -e "$include/Python.h" ] || use_twin "no Python.h in $include"

case $(uname -s) in
    Darwin) shared="-bundle -undefined dynamic_lookup" ;;
    *) shared=-shared ;;
esac

log=$(mktemp)
trap 'rm -f .*"$suffix.$$" "$log"' EXIT

for extension in $stale; do
    # Under a name of its own first: another build, or a running worker, may use the target.
    target=$extension$suffix
    new=.$target.$$

    # shellcheck disable=SC2086  # lists of words
    if $compiler -std=c11 -O2 -DNDEBUG ${CFLAGS:-} -fPIC -fvisibility=hidden $shared \
        -I"$include" -I"$platinclude" -o "$new" "$extension"*.c 2>"$log"; then
        mv -f "$new" "$target"
        echo "build_ext: built $target"
    else
        cat "$log" >&2
        use_twin "$compiler could not build the extension"
    fi
done
