#!/usr/bin/env bash
# Do the vqueue's tests fail when the vqueue is wrong? Each mutation below breaks one rule
# of the vqueue in a copy of the engine; the model or a named test must then fail.
#
#   tests/mutations/vqueue.sh          all mutations
#   tests/mutations/vqueue.sh lock     mutations whose name contains the word
#
# FOREBAY_CASES sets the cases per property, CARGO_TARGET_DIR the build directory. Exit code 0 when
# every mutation was caught.
set -euo pipefail
export FOREBAY_CASES=${FOREBAY_CASES:-40000}
machine=vqueue
# The model would need more than 40,000 cases for a race that a named test replays.
tests=vqueue_
only=${1:-}
source "$(dirname "$0")/lib.sh"

unbroken

mutation 'a permit without a head is lost' mod.rs \
    's/effects\.extend\(permits\.iter\(\)\.skip\(count as usize\)\.map\(VQueueEffect::ReturnPermit\)\);//'
mutation 'a head in the future may run' reconcile.rs \
    's/\.take_while\(\|key\| key\.run_at <= now\)//'
mutation 'with a lock it asks before the last decision is answered' reconcile.rs \
    's/usize::from\(dispatched == 0\)/1 + dispatched * 0/'
mutation 'a paused vqueue asks' reconcile.rs \
    's/if self\.config\.paused \|\| self\.config\.draining \{/if self.config.draining {/'
mutation 'a draining vqueue decides' reconcile.rs \
    's/if self\.config\.paused \|\| self\.config\.draining \{/if self.config.paused {/'
mutation 'a changed lock request does not replace the acquire' reconcile.rs \
    's/self\.asked != Some\(lock\)/self.asked.is_none()/'
mutation 'a retry asks for the lock as if it did not hold it' mod.rs \
    's/\(true, true\) => LockWish::Held\(head\.entry\)/(true, true) => LockWish::Take/'
mutation 'a grant does not end the acquire' mod.rs \
    's/self\.asked\.take\(\)\.is_none\(\)/self.asked.is_none()/'
mutation 'a rest forgets a possibly pending acquire' reconcile.rs \
    's/ \|\| self\.may_stand \{/ {/'
mutation 'goes cold with a refill in flight' reconcile.rs \
    's/\|\| self\.inbox\.is_refill_in_flight\(\)//'
mutation 'goes cold with unanswered decisions' reconcile.rs \
    's/\|\| self\.inbox\.dispatched\(\)\.len\(\) > 0;/;/'
mutation 'goes cold as empty without a complete scan' reconcile.rs \
    's/self\.inbox\.is_empty_for_sure\(\)/self.inbox.head().is_none()/'
mutation 'a wake-up does not clear the timer' mod.rs \
    's/VQueueMessage::Wake => self\.armed = None/VQueueMessage::Wake => {}/'
mutation 'the timer follows only the head' reconcile.rs \
    's/\[head, self\.retry_at\]/[head, None]/'
mutation 'a failed refill is not tried again' reconcile.rs \
    's/if self\.retry_at\.is_some_and\(\|at\| at > now\)/if self.retry_at.is_some()/'
mutation 'reads before it has set the timer' reconcile.rs \
    's/let read = self\.refill_if_low\(now\);/if let Some(read) = self.refill_if_low(now) { effects.push(VQueueEffect::ReadInbox(read)); }/' \
    's/effects\.extend\(read\.map.*//'
mutation 'a void decision is forgotten' mod.rs \
    's/self\.inbox\.yield_back\(key\);/let _ = key;/'
mutation 'resume is forgotten' mod.rs \
    's/VQueueMessage::Resume => self\.config\.paused = false/VQueueMessage::Resume => {}/'
mutation 'changes are taken in the wrong order' mod.rs \
    's/for change in changes \{/for change in changes.iter().rev() {/'
mutation 'the permit of its start is lost' mod.rs \
    's/self\.use_permits\(now, \*permits, effects\);/let _ = permits;/'
mutation 'the permit of its start is kept after a failed scan' mod.rs \
    's/ \|\| self\.retry_at\.is_some\(\);/;/'
mutation 'the permit of its start is kept while paused' mod.rs \
    's/let is_stopped = self\.config\.paused \|\| /let is_stopped = /'

finish
