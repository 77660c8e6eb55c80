#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Runs Autobahn's fuzzing client against an echo application under Hornbeam, and fails unless
# every case is OK. Does nothing where there is no Python 2.7 for it.
#
# Usage: conformance.sh PYTHON [CASES...], like `conformance.sh python3 '1.*' 12.1.1'
set -eu

python=$1
shift
cd "$(dirname "$0")/.."

status=0
wstest=$(scripts/autobahn.sh "$python") || status=$?
case $status in
    0) ;;
    77) exit 0 ;;
    *) exit "$status" ;;
esac
PYTHONPATH=tests exec .venv/bin/python -m conformance "$wstest" "$@"
