#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Serves an application in the foreground until SIGTERM or Ctrl-C, then ends it cleanly. Reads
# APP, APP_DIR, BIND, WORKERS, RUN_PYTHON and OPTS from the environment, see hornbeam_cli.
set -eu

cd "$(dirname "$0")/.."

# A session of its own: Ctrl-C and a closed terminal then reach this script alone, which asks
# the node to stop; a node in the terminal's session would die of the latter at once.
alone=""
! command -v setsid > /dev/null || alone=setsid

# Each connection is a file. More than the usual 1024, but not as many as some containers allow: the
# node has a table with a row for each.
files=$(ulimit -S -n)
if [ "$files" != unlimited ] && [ "$files" -lt 65536 ]; then
    ulimit -S -n 65536 2> /dev/null || ulimit -S -n "$(ulimit -H -n)" 2> /dev/null || true
fi

# The schedulers must not spin while they wait: the workers need the cores.
# shellcheck disable=SC2086 # no word where there is no setsid
$alone erl -noinput +Bi +sbwt none +sbwtdcpu none +sbwtdio none \
    -pa _build/default/lib/*/ebin -pa _build/default/checkouts/*/ebin \
    -s hornbeam_cli main \
    -extra "$APP" "$APP_DIR" "$BIND" "$WORKERS" "$RUN_PYTHON" "$OPTS" &
node=$!
trap 'kill -TERM "$node" 2> /dev/null || true' HUP INT TERM

# A trap ends wait before the node has ended.
status=0
wait "$node" || status=$?
while kill -0 "$node" 2> /dev/null; do
    status=0
    wait "$node" || status=$?
done
exit "$status"
