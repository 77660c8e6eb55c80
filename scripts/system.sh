#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Looks for the programs that Hornbeam is built and run with, names the Debian packages of those
# that are missing, and installs them. Installs nothing where all are there, whoever provided
# them.
#
# Usage: system.sh run|test|bench PYTHON
set -eu

purpose=$1
python=$2
packages=""

fail() {
    echo "system: $*" >&2
    exit 1
}

need() { # need PACKAGE...
    packages="$packages $*"
}

has_command() {
    command -v "$1" > /dev/null 2>&1
}

# True where the Erlang installation has these applications.
has_applications() {
    erl -noinput -eval '
        Missing = [A || A <- init:get_plain_arguments(), is_tuple(code:lib_dir(list_to_atom(A)))],
        halt(length(Missing)).' -extra "$@"
}

has_headers() {
    erl -noinput -eval '
        Header = filename:join([code:lib_dir(kernel), "include", "file.hrl"]),
        halt(case filelib:is_regular(Header) of true -> 0; false -> 1 end).'
}

look_for_erlang() {
    if ! has_command erl || ! has_command escript; then
        need erlang-base erlang-dev erlang-crypto erlang-ssl erlang-inets
    elif ! has_applications crypto ssl public_key asn1 inets syntax_tools tools parsetools ||
        ! has_headers; then
        need erlang-dev erlang-crypto erlang-ssl erlang-inets erlang-tools erlang-parsetools
    fi
    has_command rebar3 || need rebar3
}

look_for_erlang_tests() {
    if ! has_command erl || ! has_applications common_test eunit dialyzer edoc xmerl; then
        need erlang-common-test erlang-eunit erlang-dialyzer erlang-edoc erlang-xmerl
    fi
    if ! has_command erl || ! has_applications proper; then
        need erlang-proper
    fi
}

# A Python that the user chose is the user's affair; Debian's own can be completed.
look_for_python() {
    if ! has_command "$python"; then
        [ "$python" = python3 ] || fail "there is no $python here (PYTHON=)"
        need python3 python3-venv python3-dev
    elif ! "$python" -c 'import venv, ensurepip' 2> /dev/null; then
        need python3-venv
    fi
}

# Without them the codec runs in its pure Python form, which is slower.
look_for_compiler() {
    has_command cc || need gcc libc6-dev
    if has_command "$python" && ! "$python" -c '
import pathlib, sys, sysconfig
header = pathlib.Path(sysconfig.get_path("include"), "Python.h")
sys.exit(not header.exists())'; then
        need python3-dev
    fi
}

look_for_tools() {
    has_command make || need make
    has_command xz || need xz-utils
    has_command setsid || need util-linux
    [ -d /etc/ssl/certs ] || need ca-certificates
}

# Clients of HTTP/2 that the tests let loose on the server.
look_for_clients() {
    has_command curl || need curl
    if ! has_command nghttp || ! has_command h2load; then
        need nghttp2-client
    fi
}

# Tests count system calls with it.
look_for_tracer() {
    has_command strace || need strace
}

# Loads of the bench, and what its shared counter is compared with.
look_for_bench() {
    has_command wrk || need wrk
    has_command h2load || need nghttp2-client
    has_command redis-server || need redis-server
}

check_versions() {
    erl -noinput -eval 'halt(case list_to_integer(erlang:system_info(otp_release)) >= 25 of
        true -> 0; false -> 1 end).' || fail "Erlang/OTP is older than 25"
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
        fail "$python is older than Python 3.10"
}

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif has_command sudo; then
        sudo "$@"
    else
        fail "installing needs root: run  apt-get install$packages"
    fi
}

install_packages() {
    command -v apt-get > /dev/null ||
        fail "missing, and there is no apt-get to install it (Debian's names):$packages"
    echo "system: installing Debian packages:$packages"
    log=$(mktemp)
    # shellcheck disable=SC2086 # a package a word
    if ! { as_root apt-get -qq update && as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get -qq install -y --no-install-recommends $packages; } > "$log" 2>&1; then
        cat "$log" >&2
        fail "apt-get could not install:$packages"
    fi
    rm -f "$log"
}

look_for_erlang
look_for_python
look_for_compiler
look_for_tools
if [ "$purpose" = test ]; then
    look_for_erlang_tests
    look_for_clients
    look_for_tracer
elif [ "$purpose" = bench ]; then
    look_for_bench
fi
[ -z "$packages" ] || install_packages
check_versions
