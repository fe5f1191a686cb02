#!/usr/bin/env bash
# Drives one of the tests that use bolero::check! with libFuzzer. Needs a nightly compiler. What was found, and the inputs that
# reach new code, stay in target/fuzz.
#
#   scripts/fuzz.sh PACKAGE TEST [SECONDS]
#   scripts/fuzz.sh logservice resp::fuzz::any_command_is_answered 300
#   scripts/fuzz.sh durability-protocol resp_parser::tests::any_bytes_are_the_same_frames_however_they_arrive 300
source "$(dirname "$0")/lib.sh"

[ $# -ge 2 ] || die "usage: scripts/fuzz.sh PACKAGE TEST [SECONDS]"
package=$1 test=$2 seconds=${3:-60}
cd "$ROOT"
work=$ROOT/target/fuzz
corpus=$work/corpus/$test found=$work/found/$test
mkdir -p "$corpus" "$found"
# What `cargo bolero test` does, but for the library's tests alone: without bolero in it, no other program links.
RUSTFLAGS="--cfg fuzzing --cfg fuzzing_libfuzzer -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4"
for option in inline-8bit-counters pc-table trace-compares stack-depth; do
    RUSTFLAGS+=" -Cllvm-args=-sanitizer-coverage-$option"
done
export RUSTFLAGS BOLERO_FUZZER=libfuzzer
# With --target, so that build scripts and macros are not instrumented.
host=$(rustc +nightly -vV | sed -n 's/^host: //p')
program=$(cargo +nightly test --package "$package" --lib --no-run --profile fuzz --target "$host" --target-dir "$work/build" \
    --message-format json | sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' | tail -1)
[ -n "$program" ] || die "$package does not build"
export BOLERO_TEST_NAME=$test BOLERO_LIBTEST_HARNESS=1
export BOLERO_LIBFUZZER_ARGS="$corpus -artifact_prefix=$found/ -max_total_time=$seconds -timeout=10 -print_final_stats=1"
exec "$program" "$test" --exact --nocapture --quiet --test-threads 1
