# Shared by the scripts in this directory: breaks a copy of the sources, one rule at a time, and
# reports whether the tests detect it. Source it with `only` set: mutations whose name does not
# contain it are skipped.
#
# With `machine` set, the copy is messages and engine: engine/src/$machine is broken, and
# engine/tests/$machine must detect it (its tests called ${machine}_model, or the ones in $tests;
# all if it is empty). Without it, the copy is the whole workspace, and the script sets `model` to
# the tests that must detect it.
#
# With FOREBAY_MUTATIONS=apply nothing is built or run; the script only checks that each mutation
# still changes the sources. A mutation that does not is a failure in both modes.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
copy=$(mktemp -d)
trap 'rm -rf "$copy" "$copy.log" "$copy.before"' EXIT
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$root/target/mutations}
export RUST_BACKTRACE=0
missed=0

# Copies the tracked files in their current state (with new times, for cargo), and keeps the
# original.
(cd "$root" && git ls-files -z ${machine:+messages engine Cargo.lock Cargo.toml} | xargs -0 tar cf -) |
    tar xmf - -C "$copy"
if [[ -n ${machine:-} ]]; then
    tests=${tests-${machine}_model}
    # A workspace of the two crates, without the package at the root.
    sed -i -e 's/^members = .*/members = ["messages", "engine"]/' -e '/^default-members = /d' \
        -e '/^\[package\]/,/^\[profile/{/^\[profile/!d;}' "$copy/Cargo.toml"
    # A failing case found for one mutation must not be replayed for the next one.
    rm -rf "$copy/engine/tests/proptest-regressions"
fi
(cd "$copy" && git init --quiet && git add --all)

# Returns 0 when nothing is detected. The output is in $copy.log.
model() {
    (cd "$copy" && cargo test --quiet --offline -p forebay-engine \
        --test "$machine" $tests) >"$copy.log" 2>&1
}

# Prints in a few words what failed.
noticed() {
    grep -m1 -A1 'panicked at' "$copy.log" | tail -1 | cut -c1-80
}

only_applies() {
    [[ ${FOREBAY_MUTATIONS:-run} == apply ]]
}

unbroken() {
    if only_applies; then
        return 0
    fi
    if ! model; then
        cat "$copy.log"
        echo "the tests fail without any mutation" >&2
        exit 1
    fi
    echo "passes          without a mutation"
}

# planted NAME (FILE SED-SCRIPT)...: paths from the root.
planted() {
    local name=$1 before=$copy.before
    shift
    [[ $name == *"$only"* ]] || return 0
    (cd "$copy" && git checkout --quiet -- . && git clean --quiet -fd)
    while (($# > 0)); do
        cp "$copy/$1" "$before"
        sed -i -E "$2" "$copy/$1"
        if cmp -s "$copy/$1" "$before"; then
            echo "DOES NOT APPLY  $name: $1: $2"
            missed=$((missed + 1))
            return 0
        fi
        shift 2
    done
    if only_applies; then
        echo "applies         $name"
    elif model; then
        echo "NOT CAUGHT      $name"
        missed=$((missed + 1))
    elif grep -q 'could not compile' "$copy.log"; then
        echo "DOES NOT BUILD  $name"
        cat "$copy.log"
        missed=$((missed + 1))
    else
        echo "caught          $name: $(noticed)"
    fi
}

# mutation NAME FILE SED-SCRIPT...: one file of the machine.
mutation() {
    local name=$1 file=engine/src/$machine/$2 arguments=()
    shift 2
    for script in "$@"; do
        arguments+=("$file" "$script")
    done
    planted "$name" "${arguments[@]}"
}

finish() {
    if ((missed > 0)); then
        echo "$missed mutation(s) were not caught or do not apply" >&2
        exit 1
    fi
}
