# Helpers that the other scripts source. Nothing here runs by itself.
# shellcheck shell=bash

set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/valkey-durability

say() { printf '%s: %s\n' "$(basename "$0")" "$*" >&2; }
die() { say "$*"; exit 1; }

# missing_packages PACKAGE...: prints those that are not installed.
missing_packages() {
    local package
    for package in "$@"; do
        dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed || echo "$package"
    done
}

# need_packages PACKAGE...: installs the Debian packages that are missing. Uses the network only if one is.
need_packages() {
    [ -n "$(missing_packages "$@")" ] || return 0
    mkdir -p "$CACHE"
    # One script at a time: apt-get would refuse the second.
    (flock 8 && install_packages "$@") 8>"$CACHE/packages.lock"
}

install_packages() {
    local missing
    mapfile -t missing < <(missing_packages "$@")
    [ ${#missing[@]} -eq 0 ] && return 0
    say "installing ${missing[*]}"
    local as_root=()
    if [ "$(id -u)" -ne 0 ]; then
        command -v sudo >/dev/null || die "please install as root: apt-get install ${missing[*]}"
        as_root=(sudo)
    fi
    local log
    log=$(mktemp)
    if ! { "${as_root[@]}" apt-get update && DEBIAN_FRONTEND=noninteractive "${as_root[@]}" apt-get install -y --no-install-recommends "${missing[@]}"; } >"$log" 2>&1; then
        tail -n 20 "$log" >&2
        die "apt-get install ${missing[*]} failed (output above)"
    fi
    rm -f "$log"
}

# What the crates in Cargo.lock need; tests/deploy/ compares.
RUST_MINIMUM=$(sed -n 's/^rust-version = "\(.*\)"$/\1/p' "$ROOT/Cargo.toml")

need_rust() {
    local version
    command -v cargo >/dev/null || die "cargo is missing: install Rust $RUST_MINIMUM or newer (https://rustup.rs)"
    version=$(cargo --version | cut -d ' ' -f 2)
    [ "$(printf '%s\n' "$RUST_MINIMUM" "$version" | sort -V | head -n 1)" = "$RUST_MINIMUM" ] ||
        die "cargo $version is too old: install Rust $RUST_MINIMUM or newer (https://rustup.rs)"
}

# The bindgen build step of the valkey-module crate loads libclang and wants the compiler's own headers.
need_build_packages() {
    need_rust
    need_packages gcc libc6-dev libclang-dev
}
