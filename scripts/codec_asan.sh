#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Runs the tests of what is in C, most of it the codec, against a build that checks itself: with
# AddressSanitizer and UndefinedBehaviorSanitizer, or under valgrind where the compiler has no
# sanitizers.
#
#   scripts/codec_asan.sh PYTHON
#
# PYTHON has the packages of requirements/test.txt. FUZZ_ROUNDS (10) multiplies the amount of
# hostile input. The tree is not touched: the build lies in a temporary folder.
set -eu

if [ $# -ne 1 ]; then
    echo "usage: scripts/codec_asan.sh PYTHON" >&2
    exit 2
fi

case $1 in
    */*) python=$(cd "$(dirname "$1")" && pwd)/$(basename "$1") ;;
    *) python=$1 ;;
esac

cd "$(dirname "$0")/.."
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

mkdir "$folder/scripts" "$folder/python"
cp scripts/build_ext.sh "$folder/scripts"
cp -R python/hornbeam "$folder/python"
rm -f "$folder"/python/hornbeam/*.so
export CC="${CC:-cc}"

# The allocator of the C library, as the sanitizers and valgrind know nothing of Python's.
export PYTHONMALLOC=malloc PYTHONDONTWRITEBYTECODE=1
export HORNBEAM_FUZZ_ROUNDS="${FUZZ_ROUNDS:-10}"

build() {
    CFLAGS="-g -O1 -fno-omit-frame-pointer -UNDEBUG $1" "$folder/scripts/build_ext.sh" "$python"

    for extension in _etf_c _http_c; do
        if ! ls "$folder/python/hornbeam/$extension".*.so >/dev/null 2>&1; then
            echo "codec_asan: $extension could not be built" >&2
            exit 1
        fi
    done
}

# test_nothing_leaks and its like count what Python's allocator hands out; the tests of the
# build and of 4 GiB of memory have nothing to do with memory errors.
run_tests() {
    # Sanitizers write to descriptor 2 itself before they abort.
    "$@" -m pytest -q -p no:cacheprovider --capture=sys \
        -o "pythonpath=$folder/python tests" -o timeout=1200 \
        tests/test_etf_vectors.py tests/test_etf_decode.py tests/test_etf_encode.py \
        tests/test_etf_hostile.py tests/test_usual.py tests/test_request_state.py \
        -k "not leak and not ever_new and not take_no_memory and not takes_no_memory \
            and not bomb_unfolds and not script_makes and not beyond_the_limit \
            and not python"
}

libasan=$($CC -print-file-name=libasan.so)

if [ -e "$libasan" ]; then
    build "-fsanitize=address,undefined -fno-sanitize-recover=all"
    echo "codec_asan: with AddressSanitizer and UndefinedBehaviorSanitizer"
    # Python itself leaves memory behind when it exits.
    export ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1:abort_on_error=1
    export UBSAN_OPTIONS=print_stacktrace=1
    run_tests env LD_PRELOAD="$libasan" "$python"
elif command -v valgrind >/dev/null; then
    build ""
    echo "codec_asan: under valgrind"
    HORNBEAM_FUZZ_ROUNDS=1
    # The C library compares wide strings by whole vectors, past their ends.
    printf '{\n wide_strings\n Memcheck:Addr32\n fun:*wmemcmp*\n}\n' >"$folder/suppressions"
    # Python itself looks at values that are not initialised, when it makes the int 0.
    run_tests valgrind --quiet --error-exitcode=99 --undef-value-errors=no \
        "--suppressions=$folder/suppressions" "$python"
else
    echo "codec_asan: neither libasan nor valgrind is here" >&2
    exit 1
fi
