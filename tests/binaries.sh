# What the tests run, sourced by their run.sh: DURABILITY_SO, LOGSERVICE and VALKEY_BIN_DIR, from the environment as absolute paths, or what
# a release build and scripts/valkey.sh give. Sets HERE, the directory of that run.sh, and ROOT, the project's.
HERE=$(cd "$(dirname "$0")" && pwd)
ROOT=$(dirname "$(dirname "$HERE")")
export DURABILITY_SO=${DURABILITY_SO:-$ROOT/target/release/libvalkey_durability.so}
export LOGSERVICE=${LOGSERVICE:-$ROOT/target/release/logservice}
export VALKEY_BIN_DIR=${VALKEY_BIN_DIR:-$("$ROOT/scripts/valkey.sh")}

for file in "$DURABILITY_SO" "$LOGSERVICE" "$VALKEY_BIN_DIR/valkey-server"; do
    [ -e "$file" ] || { echo "$file is missing" >&2; exit 1; }
done
