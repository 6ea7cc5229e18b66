#!/usr/bin/env bash
# Do the tests of consensus rows detect a broken storage? Each mutation below plants one bug in a
# copy of the workspace; the tests of the rows, or the simulation over a real storage, must fail.
#
#   tests/mutations/rows.sh            all mutations
#   tests/mutations/rows.sh promise    mutations whose name contains the word
#
# CARGO_TARGET_DIR sets the build directory. Exit code 0 when every mutation was caught.
set -euo pipefail
only=${1:-}
source "$(dirname "$0")/lib.sh"

model() {
    (cd "$copy" && cargo test --quiet --offline -p forebay-storage --features testkit \
        --lib --test consensus -- ${tests:-consensus:: on_disk}) >"$copy.log" 2>&1
}

unbroken

rows=storage/src/consensus
planted 'a promise outlives its segment' $rows/group.rs \
    's/for kind in \[Kind::Promise, Kind::Round, Kind::Adopted\]/for kind in [Kind::Round, Kind::Adopted]/'
planted 'rows that were cut off come back' $rows/group.rs \
    's/batch\.delete_range\(first, keys::end_of_group\(Kind::Entry, group\)\);/let _ = first;/'
planted 'the decided index is not kept' $rows/group.rs \
    's/self\.decided = \*index;/return None;/'
planted 'a dropped segment stays' $rows/group.rs \
    's/batch\.delete\(keys::numbered\(Kind::Segment, group, segment\.number\)\);/let _ = segment;/'
planted 'a start is not counted' $rows/identity.rs \
    's/known\.boot\.checked_add\(1\)/known.boot.checked_add(0)/'
planted 'peers are forgotten' $rows/group.rs \
    's/Write::Peer\(memory\) => batch\.put\(keys::memory\(group, memory\.storage\), bytes_of\(write\)\)/Write::Peer(_) => {}/'
planted 'history is not checked' $rows/load.rs \
    's/before\.after\(\&row\.entry\) != row\.hash/before.after(\&row.entry) != row.hash \&\& false/'
planted 'a missing row is skipped' $rows/load.rs \
    's/if !is_full \&\& index < end/if false/'
planted 'a write is reported before its sync' $rows/writer.rs \
    's/let stopped = match commit\(groups, \&batch\) \{/tell(\&batch, \&mut listener);\n            let stopped = match commit(groups, \&batch) {/'
planted 'a failed sync is reported as durable' $rows/writer.rs \
    's/Err\(error\) => Some\(error\),/Err(_) => { tell(\&batch, \&mut listener); None }/'
planted 'the writes of a block continue after a failed one' storage/src/log/database/mod.rs \
    's/self\.writer\.broken = Some\(fault\.clone\(\)\);/let _ = \&mut self.writer;/'
finish
