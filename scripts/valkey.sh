#!/usr/bin/env bash
# Prints the directory that holds a usable valkey-server (9.1 or newer), valkey-cli and valkey-benchmark:
#   1. $VALKEY_HOME, if set (the directory itself, or its src/ or bin/);
#   2. the directory of a valkey-server on PATH;
#   3. one built here, once, from Debian's source package, kept in the cache directory.
# With --source: prints the source tree (whose tests/ is Valkey's own test suite) instead.
source "$(dirname "$0")/lib.sh"

MINIMUM=9.1

new_enough() { # new_enough PATH/valkey-server
    local version
    version=$("$1" --version 2>/dev/null | sed -n 's/.* v=\([0-9.]*\).*/\1/p')
    [ -n "$version" ] && dpkg --compare-versions "$version" ge "$MINIMUM"
}

# The mirror that this machine already uses for its own release.
debian_mirror() {
    local codename
    codename=$(. /etc/os-release && echo "${VERSION_CODENAME:?}")
    # The list is captured first: a reader that stops early would fail the writer.
    local uris
    uris=$(apt-get update --print-uris)
    sed -n "s|^'\(.*\)/dists/$codename/InRelease'.*|\1|p" <<<"$uris" | sed -n 1p
}

fetch_and_build() {
    local work=$CACHE/valkey mirror version
    if [ -e "$work/current/src/valkey-server" ] && new_enough "$work/current/src/valkey-server"; then return; fi
    command -v apt-get >/dev/null || die "no valkey-server >= $MINIMUM found: install one, or set VALKEY_HOME to its directory"
    need_packages make gcc libc6-dev pkg-config libssl-dev dpkg-dev debian-archive-keyring
    mkdir -p "$work/apt/lists/partial" "$work/apt/cache/archives/partial"
    mirror=$(debian_mirror)
    [ -n "$mirror" ] || die "no Debian mirror for this release in the apt sources: set VALKEY_HOME to a valkey-server >= $MINIMUM"
    local suite
    for suite in sid testing stable; do
        echo "deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main"
    done >"$work/apt/sources.list"
    # Lists and archives of our own: the machine's package lists stay as they are.
    local apt=(-o "Dir::State::Lists=$work/apt/lists" -o "Dir::Cache=$work/apt/cache"
        -o "Dir::Etc::SourceList=$work/apt/sources.list" -o Dir::Etc::SourceParts=/dev/null)
    say "looking for Valkey >= $MINIMUM in Debian's source packages"
    apt-get "${apt[@]}" update >&2
    version=$(apt-cache "${apt[@]}" showsrc --only-source valkey | sed -n 's/^Version: //p' | while read -r v; do
        if dpkg --compare-versions "$v" ge "$MINIMUM"; then echo "$v"; fi
    done | sort -V | tail -n 1)
    [ -n "$version" ] || die "Debian has no valkey >= $MINIMUM: set VALKEY_HOME to a valkey-server >= $MINIMUM"
    local build=$work/$version
    rm -rf "$build" "$build.partial"
    mkdir -p "$build.partial"
    (cd "$build.partial" && apt-get "${apt[@]}" source --download-only "valkey=$version" >&2 && dpkg-source --no-check -x ./*.dsc tree >&2)
    say "building Valkey $version (about two minutes)"
    if ! make -C "$build.partial/tree" -j "$(nproc)" BUILD_TLS=yes >"$build.partial/build.log" 2>&1; then
        tail -n 30 "$build.partial/build.log" >&2
        die "building Valkey failed; the whole output is in $build.partial/build.log"
    fi
    mv "$build.partial/tree" "$build"
    rm -rf "$build.partial"
    ln -sfn "$build" "$work/current.new"
    mv -T "$work/current.new" "$work/current"
}

build_once() {
    mkdir -p "$CACHE"
    (
        flock 9 # two scripts started at once build once
        fetch_and_build
    ) 9>"$CACHE/valkey.lock"
}

if [ "${1:-}" = --source ]; then
    if [ -n "${VALKEY_SOURCE:-}" ]; then echo "$VALKEY_SOURCE"; exit; fi
    build_once
    readlink -f "$CACHE/valkey/current"
    exit
fi
[ $# -eq 0 ] || die "usage: valkey.sh [--source]"

if [ -n "${VALKEY_HOME:-}" ]; then
    for directory in "$VALKEY_HOME" "$VALKEY_HOME/src" "$VALKEY_HOME/bin"; do
        if [ -x "$directory/valkey-server" ]; then
            new_enough "$directory/valkey-server" || die "$directory/valkey-server is older than $MINIMUM, or does not start"
            echo "$directory"
            exit
        fi
    done
    die "VALKEY_HOME=$VALKEY_HOME has no valkey-server"
fi
if on_path=$(command -v valkey-server) && new_enough "$on_path"; then
    dirname "$on_path"
    exit
fi
build_once
echo "$(readlink -f "$CACHE/valkey/current")/src"
