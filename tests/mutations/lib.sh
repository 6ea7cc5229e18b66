# For the scripts beside it: breaks a copy of one machine of the engine, rule by rule,
# and says whether its model test fails. To be sourced with `machine` set to the
# machine's name: engine/src/$machine is broken, engine/tests/$machine must notice (its
# tests called ${machine}_model, or those that $tests names; all when it is empty).

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$root/target/mutations}
export RUST_BACKTRACE=0
missed=0
tests=${tests-${machine}_model}

cp -r "$root/messages" "$root/engine" "$root/Cargo.lock" "$copy/"
# A workspace of the two crates; the package at the root stays behind.
sed -e 's/^members = .*/members = ["messages", "engine"]/' \
    -e '/^\[package\]/,/^\[profile/{/^\[profile/!d;}' "$root/Cargo.toml" >"$copy/Cargo.toml"
cp -r "$copy/engine/src/$machine" "$copy/pristine"

model() {
    (cd "$copy" && cargo test --quiet --offline -p forebay-engine \
        --test "$machine" $tests) >"$copy/log" 2>&1
}

unbroken() {
    if ! model; then
        cat "$copy/log"
        echo "the model fails without any mutation" >&2
        exit 1
    fi
    echo "passes          without a mutation"
}

# mutation NAME FILE SED-SCRIPT...
mutation() {
    local name=$1 file=$copy/engine/src/$machine/$2
    shift 2
    [[ $name == *"$only"* ]] || return 0
    rm -rf "$copy/engine/src/$machine" && cp -r "$copy/pristine" "$copy/engine/src/$machine"
    rm -rf "$copy/engine/tests/proptest-regressions"
    for script in "$@"; do
        cp "$file" "$copy/before"
        sed -i -E "$script" "$file"
        if cmp -s "$file" "$copy/before"; then
            echo "DOES NOT APPLY  $name: $script"
            missed=$((missed + 1))
            return 0
        fi
    done
    if model; then
        echo "NOT CAUGHT      $name"
        missed=$((missed + 1))
    elif grep -q 'could not compile' "$copy/log"; then
        echo "DOES NOT BUILD  $name"
        cat "$copy/log"
        missed=$((missed + 1))
    else
        echo "caught          $name: $(grep -m1 -A1 'panicked at' "$copy/log" | tail -1 | cut -c1-80)"
    fi
}

finish() {
    if ((missed > 0)); then
        echo "$missed mutation(s) were not caught" >&2
        exit 1
    fi
}
