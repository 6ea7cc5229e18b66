#!/usr/bin/env bash
# Do the tests of the shuffle fail when it is wrong? Each mutation below breaks one of its rules in
# a copy of the engine; engine/tests/shuffle must then fail.
#
#   tests/mutations/shuffle.sh        all mutations
#   tests/mutations/shuffle.sh read   mutations whose name contains the word
#
# CARGO_TARGET_DIR sets the build directory. Exit code 0 when every mutation was caught.
set -euo pipefail
machine=shuffle
tests=''
only=${1:-}
source "$(dirname "$0")/lib.sh"

unbroken

mutation 'two commands in flight to one target' target.rs \
    's/let may_go = self\.in_flight == 0 \&\& /let may_go = /'
mutation 'a command of unknown outcome counts as applied' mod.rs \
    's/=> self\.on_not_delivered\(now, target\)/=> self.on_delivered(target)/'
mutation 'a notification is taken although an earlier one was missed' mod.rs \
    's/if self\.knows_end \&\& first == self\.highest\.next\(\)/if first > RecordSeq(0)/'
mutation 'a target takes messages although it lacks earlier ones' mod.rs \
    's/if target\.through >= after \&\& index/if index/'
mutation 'a new target lacks the messages before the page' mod.rs \
    's/let frontier = self\.frontier;/let frontier = self.frontier.max(after);/'
mutation 'messages without room are lost' target.rs \
    's/self\.is_cut = true;/self.is_cut = false;/'
mutation 'a truncation that was lost is not tried again' mod.rs \
    's/self\.to_truncate\.extend\(std::mem::take\(\&mut self\.truncating\)\);/self.truncating.clear();/'
mutation 'messages without an owner are not examined again' mod.rs \
    's/\(self\.frontier, self\.knows_end\) = \(RecordSeq\(0\), false\);//'

finish
