#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Runs every check and test, goes on after a failure, and sums up at the end. Each check of
# style or types counts as one. They run beside the Erlang suites, which wait a lot, and are
# shown after them.
set -u

cd "$(dirname "$0")/.." || exit
mkdir -p build
log=build/test.log
checks="lint types xref dialyzer edoc"
passed=0
failed=0
summary=""

# Without a terminal to draw on, tools leave their colours out.
[ -t 1 ] || export NO_COLOR=1 TERM=dumb

number() { # number BEFORE AFTER: the last number between two such texts in the log; or 0
    found=$(sed 's/\x1b\[[0-9;]*m//g' "$log" | grep -oE "$1[0-9]+$2" | tail -n 1)
    echo "${found:-0}" | grep -oE '[0-9]+'
}

count() { # count STEP STATUS PASSED FAILED: a step that broke without a number failed once
    step_failed=$4
    [ "$2" = 0 ] || [ "$step_failed" != 0 ] || step_failed=1
    passed=$((passed + $3))
    failed=$((failed + step_failed))
    summary="$summary
  $1: $3 passed, $step_failed failed"
}

failures() { # failures PATTERN: what the log says of each test that failed, a line each
    sed 's/\x1b\[[0-9;]*m//g' "$log" | grep -aE "$1" | sort -u | sed 's/^/    /'
}

run() { # run STEP: its output on the screen and in the log; gives the status of make
    echo
    echo "== $1"
    { make --no-print-directory PREPARED=1 "$1" 2>&1; echo $? > build/test.status; } | tee "$log"
    status=$(cat build/test.status)
}

run_quietly() { # run_quietly STEP...: one by one, each with a log and a status of its own
    trap 'kill "$step_pid"; exit 1' TERM

    for step; do
        make --no-print-directory PREPARED=1 "$step" > "build/test-$step.log" 2>&1 &
        step_pid=$!
        wait "$step_pid"
        echo $? > "build/test-$step.status"
    done
}

show() { # show STEP: what it wrote; it has no tests to count
    echo
    echo "== $1"
    cat "build/test-$1.log"
    status=$(cat "build/test-$1.status")

    if [ "$status" = 0 ]; then
        count "$1" 0 1 0
    else
        count "$1" 1 0 1
    fi
}

if ! make --no-print-directory test-build; then
    echo "test: the build failed, nothing was tested" >&2
    exit 1
fi

for step in $checks; do
    rm -f "build/test-$step.log" "build/test-$step.status"
done

# shellcheck disable=SC2086  # a list of words
run_quietly $checks &
checks_pid=$!
# Ctrl-C reaches everything but what runs in the background.
trap 'kill "$checks_pid" 2> /dev/null; exit 130' INT TERM

run eunit
broken=$(number ', ' ' failures')
count eunit "$status" "$(($(number '' ' tests') - broken))" "$broken"

run ct
count ct "$status" "$(number '(All|Passed) ' ' tests')" "$(number 'Failed ' ' tests')"
failed_tests=$(failures '^%%% .*: FAILED')

wait "$checks_pid"
trap - INT TERM

for step in $checks; do
    show "$step"
done

run pytest
count pytest "$status" "$(number '' ' passed')" "$(($(number '' ' failed') + $(number '' ' error')))"
failed_tests="$failed_tests
$(failures '^(FAILED|ERROR) ')"

make --no-print-directory PREPARED=1 coverage

echo
echo "== summary$summary"
# Once more at the end, where they are found in a long log.
[ "$failed" = 0 ] || echo "$failed_tests"
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
