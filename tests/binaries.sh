# What the tests run, sourced by their run.sh: DURABILITY_SO, LOGSERVICE and VALKEY_BIN_DIR, from the environment as absolute paths, or what
# a release build and scripts/valkey.sh give. Sets HERE, the directory of that run.sh, ROOT, the project's, TARGET, where cargo builds, and
# PYTHONPATH, so that Python programs find tests/python.
HERE=$(cd "$(dirname "$0")" && pwd)
ROOT=$(dirname "$(dirname "$HERE")")
TARGET=${CARGO_TARGET_DIR:-$ROOT/target}
CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/valkey-durability
export DURABILITY_SO=${DURABILITY_SO:-$TARGET/release/libvalkey_durability.so}
export LOGSERVICE=${LOGSERVICE:-$TARGET/release/logservice}
export VALKEY_BIN_DIR=${VALKEY_BIN_DIR:-$("$ROOT/scripts/valkey.sh")}
export PYTHONPATH=$ROOT/tests/python PYTHONDONTWRITEBYTECODE=1

# need FILE...: ends the test if one is missing.
need() {
    local file
    for file in "$@"; do
        [ -e "$file" ] || { echo "$file is missing" >&2; exit 1; }
    done
}
need "$DURABILITY_SO" "$LOGSERVICE" "$VALKEY_BIN_DIR/valkey-server"

# fetch DIRECTORY COMMAND...: fills the directory once. The command gets a new directory as its last argument, which takes the place of the
# named one when the command has succeeded.
fetch() {
    local directory=$1 fresh
    shift
    [ -d "$directory" ] && return
    mkdir -p "$(dirname "$directory")"
    fresh=$(mktemp -d "$directory.XXXXXX")
    "$@" "$fresh" || { rm -rf "$fresh"; return 1; }
    mv -T "$fresh" "$directory" 2>/dev/null || rm -rf "$fresh" # another run was faster
}

# python_packages NAME REQUIREMENT...: fetches packages once, and adds them to PYTHONPATH. NAME stands for this set of requirements.
python_packages() {
    local directory=$CACHE/python/$1
    shift
    fetch "$directory" python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --no-warn-conflicts "$@" --target
    PYTHONPATH=$PYTHONPATH:$directory
}

# node_package VARIABLE NAME@VERSION: fetches a package for node once, and exports where node finds it as VARIABLE. Without node and npm it says
# that it is skipped.
node_package() {
    local directory=$CACHE/node/$2
    if has_node; then
        fetch "$directory" npm_install "$2"
        export "$1=$directory/node_modules"
    else
        echo "SKIPPED: ${2%@*}, as node and npm are not installed and cannot be"
    fi
}
npm_install() { npm install --loglevel error --no-audit --no-fund --prefix "$2" "$1" >&2; }
# In a shell of its own, as what cannot be installed ends it.
has_node() {
    { command -v node && command -v npm; } >/dev/null || (source "$ROOT/scripts/lib.sh" && need_packages nodejs npm)
}

# broken_module FEATURE: builds the module with a feature that breaks it, and sets BROKEN_MODULE to it. It is in a directory of its own, so
# that nobody ever takes it for the real one. What the release build has made of other crates is used there too: files that cargo writes
# anew are copied, the others are links.
broken_module() {
    local target=$TARGET/$1 part
    if [ ! -d "$target" ] && [ -d "$TARGET/release/deps" ]; then
        rm -rf "$target.new"
        mkdir -p "$target.new/release"
        cp -al "$TARGET/release/deps" "$TARGET/release/build" "$target.new/release"
        cp -a "$TARGET/release/.fingerprint" "$target.new/release"
        rm -rf "$target.new/release/deps/"*valkey_durability*
        find "$target.new/release" -name '*.d' -type f | while read -r part; do cp -p "$part" "$part.own" && mv "$part.own" "$part"; done
        mv "$target.new" "$target"
    fi
    # All crates of the workspace, as in the release build: with fewer, cargo would choose other features of what they use.
    (cd "$ROOT" && cargo build --quiet --release --workspace --lib --features "valkey-durability/$1" --target-dir "$target")
    BROKEN_MODULE=$target/release/libvalkey_durability.so
    need "$BROKEN_MODULE"
}
