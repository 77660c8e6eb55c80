#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Builds the codec's C extension for an interpreter, next to its sources.
#
#   scripts/build_ext.sh PYTHON
#
# Does nothing where it is up to date. Without a C compiler or the headers of that Python it
# says so and succeeds: the pure Python codec does the work then. CC and CFLAGS are honoured.
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
print("_etf_c" + sysconfig.get_config_var("EXT_SUFFIX"))
'); then
    echo "build_ext: $python is not a Python that runs" >&2
    exit 1
fi

include=$(printf '%s\n' "$facts" | sed -n 1p)
platinclude=$(printf '%s\n' "$facts" | sed -n 2p)
target=$(printf '%s\n' "$facts" | sed -n 3p)
sources=$(echo _etf_c*.c)

is_fresh() {
    [ -e "$target" ] || return 1
    for file in _etf_c*.[ch]; do
        [ ! "$file" -nt "$target" ] || return 1
    done
}

use_twin() {
    # One that was built from other sources may not match the Python modules around it.
    rm -f "$target"
    echo "build_ext: $1; the pure Python codec will be used"
    exit 0
}

# Those of other Pythons that were built from older sources do not match the modules around them.
for other in _etf_c.*.so; do
    [ -e "$other" ] || continue
    for file in _etf_c*.[ch]; do
        [ ! "$file" -nt "$other" ] || rm -f "$other"
    done
done

if is_fresh; then
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

# Under a name of its own first: another build, or a running worker, may use the target.
new=.$target.$$
log=$(mktemp)
trap 'rm -f "$new" "$log"' EXIT

# shellcheck disable=SC2086  # lists of words
if $compiler -std=c11 -O2 -DNDEBUG ${CFLAGS:-} -fPIC -fvisibility=hidden $shared \
    -I"$include" -I"$platinclude" -o "$new" $sources 2>"$log"; then
    mv -f "$new" "$target"
    echo "build_ext: built $target"
else
    cat "$log" >&2
    use_twin "$compiler could not build the extension"
fi
