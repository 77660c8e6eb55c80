#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Gets the Erlang dependencies: from Hex where it answers, else out of the source package of a
# Debian program that carries them, into _checkouts, which rebar3 takes in place of Hex. Does
# nothing where they are there already.
set -eu

# In the order in which they are built. Versions as in rebar.config.
APPS="ranch cowlib cowboy"
HEX_LIMIT_SECONDS=20

# The source package that carries them under deps/, and the SHA-256 of its upstream tarball.
SOURCE_PACKAGE=rabbitmq-server
SOURCE_SUITE=trixie
SOURCE_SHA256=267e83bd2bde81ece1abece365b51d1d1fdbe8a820f90a99c030ebc6edb5fb48
SOURCE_KEYRING=/usr/share/keyrings/debian-archive-keyring.gpg

cd "$(dirname "$0")/.."
root=$PWD

fail() {
    echo "deps: $*" >&2
    exit 1
}

have_all() { # have_all FOLDER: every dependency lies there, built
    for app in $APPS; do
        [ -f "$1/$app/ebin/$app.app" ] || return 1
    done
}

# rebar3 asked in a scratch project, with a limit: without a network it may wait for long.
hex_answers() {
    probe=$(mktemp -d)
    mkdir "$probe/src"
    grep -E '^ *\{ranch, ' rebar.config | tr -d ', ' | sed 's/\(ranch\)/\1,/' > "$probe/dep"
    echo "{deps, [$(cat "$probe/dep")]}." > "$probe/rebar.config"
    echo '{application, probe, [{vsn, "1"}]}.' > "$probe/src/probe.app.src"
    answered=0
    (cd "$probe" && timeout "$HEX_LIMIT_SECONDS" rebar3 get-deps) > /dev/null 2>&1 || answered=$?
    rm -rf "$probe"
    return "$answered"
}

# The archive that this machine takes Debian's packages from. Where the lists were never
# fetched, apt does not know labels yet and the security archive is told by its name.
# shellcheck disable=SC2016 # $(REPO_URI) is apt's to fill in
mirror() {
    labelled=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' \
        'Origin: Debian' 'Label: Debian' | sort -u | head -n 1)
    any=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' |
        grep -v security | grep '/debian/*$' | sort -u | head -n 1)
    echo "${labelled:-$any}"
}

# apt with lists and cache of its own: the machine's sources stay as they are, and it needs
# no root.
private_apt() {
    apt-get -qq -o Dir::Etc::SourceList="$work/sources.list" -o Dir::Etc::SourceParts=/dev/null \
        -o Dir::State::Lists="$work/lists" -o Dir::Cache="$work/cache" \
        -o Debug::NoLocking=true -o APT::Sandbox::User= "$@"
}

fetch_source() {
    command -v apt-get > /dev/null || fail "Hex does not answer, and there is no apt-get here"
    uri=$(mirror)
    [ -n "$uri" ] || fail "Hex does not answer, and apt knows no Debian archive"
    [ -f "$SOURCE_KEYRING" ] || fail "Hex does not answer, and $SOURCE_KEYRING is missing"
    mkdir -p "$work/lists/partial" "$work/cache/archives/partial"
    echo "deb-src [signed-by=$SOURCE_KEYRING] $uri $SOURCE_SUITE main" > "$work/sources.list"
    # A mirror that does not answer is only a warning to apt unless it is told otherwise.
    private_apt -o APT::Update::Error-Mode=any update ||
        fail "Hex does not answer, and neither does the Debian archive"
    (cd "$work" && private_apt source --download-only --tar-only "$SOURCE_PACKAGE") ||
        fail "the Debian archive has no source package $SOURCE_PACKAGE in $SOURCE_SUITE"
}

unpack_source() {
    tarball=$(find "$work" -maxdepth 1 -name "${SOURCE_PACKAGE}_*.orig.tar.xz")
    [ -n "$tarball" ] || fail "the source package $SOURCE_PACKAGE has no upstream tarball"
    echo "$SOURCE_SHA256  $tarball" | sha256sum --check --status ||
        fail "$(basename "$tarball") does not have the SHA-256 that is expected, $SOURCE_SHA256"
    members=$(for app in $APPS; do echo "*/deps/$app"; done)
    mkdir "$work/unpacked" "$work/apps"
    # shellcheck disable=SC2086 # a pattern a word
    tar -xJf "$tarball" -C "$work/unpacked" --wildcards $members
    for app in $APPS; do
        mv "$work"/unpacked/*/deps/"$app" "$work/apps/$app"
    done
}

# The tarball's copies have no .app file, and rebar3 has no use for one without.
build_apps() {
    for app in $APPS; do
        make -C "$work/apps/$app" app SKIP_DEPS=1 DEPS_DIR="$work/apps" ERL_LIBS="$work/apps" \
            > "$work/build.log" 2>&1 || { cat "$work/build.log" >&2; fail "$app does not build"; }
    done
    have_all "$work/apps" || fail "building $APPS left no .app files"
}

# A rename each: what is in _checkouts is always whole.
install_apps() {
    mkdir -p _checkouts
    for app in $APPS; do
        rm -rf "_checkouts/$app"
        mv "$work/apps/$app" "_checkouts/$app"
    done
}

if have_all _checkouts; then
    echo "deps: $APPS are in _checkouts"
elif have_all _build/default/lib; then
    echo "deps: $APPS are there, from Hex"
elif hex_answers; then
    rebar3 get-deps
    rebar3 compile --deps_only
    echo "deps: $APPS taken from Hex"
else
    # Beside _checkouts, so that moving into it is a rename.
    mkdir -p build
    work=$(mktemp -d "$root/build/deps.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    trap 'exit 1' HUP INT TERM
    fetch_source
    unpack_source
    build_apps
    install_apps
    echo "deps: $APPS taken from Debian's source package $SOURCE_PACKAGE ($SOURCE_SUITE)," \
        "as Hex does not answer"
fi
