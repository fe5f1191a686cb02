#!/usr/bin/env bash
# Builds two Debian packages from a release build: valkey-durability (the module, for nodes) and logservice.
#
#   deploy/debian/build.sh [OUTPUT]      OUTPUT is the directory for the packages, target/debian unless told; prints their paths
#
# Builds the binaries first, or takes those that DURABILITY_SO and LOGSERVICE name. VERSION names another version than the commit's.
# The same commit and binaries give the same packages, byte for byte. What they depend on is what the binaries need on this release of
# Debian: build on the oldest one on which they are to run.
source "$(dirname "$0")/../../scripts/lib.sh"

[ $# -le 1 ] || die "usage: deploy/debian/build.sh [OUTPUT]"
output=${1:-$ROOT/target/debian}
DEPLOY=$ROOT/deploy

need_packages dpkg-dev
if [ -z "${DURABILITY_SO:-}" ] || [ -z "${LOGSERVICE:-}" ]; then
    need_build_packages
    say "building the module and the log service"
    (cd "$ROOT" && cargo build --quiet --release)
fi
module=${DURABILITY_SO:-$ROOT/target/release/libvalkey_durability.so}
logservice=${LOGSERVICE:-$ROOT/target/release/logservice}
for file in "$module" "$logservice"; do [ -e "$file" ] || die "$file is missing: build it with cargo build --release"; done

in_git() { git -C "$ROOT" "$@" 2>/dev/null; }
# The time of everything in the packages.
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(in_git log -1 --format=%ct || stat -c %Y "$ROOT/Cargo.toml")}
export SOURCE_DATE_EPOCH
# The version in Cargo.toml for the commit with its tag; with the date and the commit for any other.
version() {
    local version commit
    version=$(sed -n '/^\[workspace\.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' "$ROOT/Cargo.toml")
    commit=$(in_git rev-parse --short=9 HEAD) || { echo "$version"; return; }
    if [ "$(in_git describe --exact-match --tags HEAD)" = "v$version" ]; then echo "$version"; return; fi
    echo "$version+git$(date --utc --date="@$SOURCE_DATE_EPOCH" +%Y%m%d%H%M).$commit"
}
VERSION=${VERSION:-$(version)}
ARCHITECTURE=$(dpkg --print-architecture)

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# put MODE FILE DIRECTORY [NAME]: into the tree of the package that is built.
put() { install -D -m "$1" "$2" "$tree/$3/${4:-$(basename "$2")}"; }

documents() { # documents PACKAGE PAGE...
    local package=$1 page
    shift
    put 644 "$ROOT/LICENSE" "usr/share/doc/$package" copyright
    gzip -9n <"$ROOT/CHANGELOG.md" >"$tree/usr/share/doc/$package/changelog.gz"
    for page in "$@"; do put 644 "$ROOT/docs/$page" "usr/share/doc/$package"; done
}

# The packages of the libraries that a binary needs, as "libc6 (>= 2.36), libgcc-s1 (>= 4.2)".
libraries() {
    mkdir -p "$work/shlibs/debian"
    printf 'Source: valkey-durability\n\nPackage: any\nArchitecture: any\n' >"$work/shlibs/debian/control"
    (cd "$work/shlibs" && dpkg-shlibdeps -O --ignore-missing-info "$1" 2>"$work/shlibs/log") | sed -n 's/^shlibs:Depends=//p'
}

# pack PACKAGE BINARY: writes what dpkg wants to know beside the tree, and makes the package.
pack() {
    local package=$1 binary=$2 size script file
    mkdir -p "$tree/DEBIAN"
    size=$(du -k -s --apparent-size "$tree" | cut -f1)
    file=$output/${package}_${VERSION}_$ARCHITECTURE.deb
    local needs
    needs=$(libraries "$binary")
    [ -n "$needs" ] || { cat "$work/shlibs/log" >&2; die "dpkg-shlibdeps does not say what $binary needs"; }
    sed -e "s|@VERSION@|$VERSION|; s|@ARCHITECTURE@|$ARCHITECTURE|; s|@SIZE@|$size|; s|@LIBRARIES@|$needs|" \
        "$DEPLOY/debian/$package.control" >"$tree/DEBIAN/control"
    for script in postinst prerm postrm; do
        if [ -e "$DEPLOY/debian/$package.$script" ]; then install -m 755 "$DEPLOY/debian/$package.$script" "$tree/DEBIAN/$script"; fi
    done
    if [ -d "$tree/etc" ]; then (cd "$tree" && find etc -type f | sort | sed 's|^|/|') >"$tree/DEBIAN/conffiles"; fi
    (cd "$tree" && find . -path ./DEBIAN -prune -o -type f -printf '%P\n' | LC_ALL=C sort | xargs -d '\n' md5sum) >"$tree/DEBIAN/md5sums"
    find "$tree" -type d -exec chmod 755 {} +
    # Debian 12 and later read zstd, which takes a hundredth of the time of xz.
    dpkg-deb -Zzstd --root-owner-group --build "$tree" "$file" >"$work/log" 2>&1 || { cat "$work/log" >&2; die "dpkg-deb failed"; }
    echo "$file"
}

mkdir -p "$output" "$work/module" "$work/logservice"

tree=$work/module
# Its symbols name the functions in a backtrace; what names their lines is large, and stays in target/.
# Valkey loads no module that nobody may execute.
put 755 "$module" usr/lib/valkey libvalkey_durability.so
strip --strip-debug "$tree/usr/lib/valkey/libvalkey_durability.so"
for unit in valkey-server valkey-server@; do
    put 644 "$DEPLOY/systemd/valkey-server.durability.conf" "usr/lib/systemd/system/$unit.service.d" 50-durability.conf
done
put 644 "$DEPLOY/systemd/valkey-durability.tmpfiles.conf" usr/lib/tmpfiles.d valkey-durability.conf
put 644 "$DEPLOY/examples/valkey.conf" usr/share/doc/valkey-durability/examples
documents valkey-durability install.md failover.md failures.md guarantees.md
pack valkey-durability "$tree/usr/lib/valkey/libvalkey_durability.so"

tree=$work/logservice
put 755 "$logservice" usr/bin logservice
strip --strip-debug "$tree/usr/bin/logservice"
put 644 "$DEPLOY/systemd/logservice.service" usr/lib/systemd/system
put 644 "$DEPLOY/systemd/logservice.sysusers.conf" usr/lib/sysusers.d logservice.conf
put 644 "$DEPLOY/systemd/logservice.tmpfiles.conf" usr/lib/tmpfiles.d logservice.conf
put 644 "$DEPLOY/systemd/logservice.default" etc/default logservice
put 644 "$DEPLOY/examples/tokens" usr/share/doc/logservice/examples
for file in "$DEPLOY"/prometheus/*; do put 644 "$file" usr/share/doc/logservice/examples/prometheus; done
put 644 "$DEPLOY/grafana/durability.json" usr/share/doc/logservice/examples/grafana
documents logservice install.md zones.md tokens.md snapshots.md restore.md metrics.md alerts.md
pack logservice "$tree/usr/bin/logservice"
