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
