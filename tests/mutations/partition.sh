#!/usr/bin/env bash
# Does the model of a partition with its vqueues and its limiter fail when vqueues that wait without
# an actor are lost? Each mutation below breaks one rule for them in a copy of the engine; the model
# test must then fail.
#
#   tests/mutations/partition.sh          all mutations
#   tests/mutations/partition.sh pause    mutations whose name contains the word
#
# FOREBAY_CASES sets the cases per property, CARGO_TARGET_DIR the build directory. Exit code 0 when
# the model caught every mutation.
set -euo pipefail
export FOREBAY_CASES=${FOREBAY_CASES:-2000}
machine=partition
tests=forget_nothing
only=${1:-}
source "$(dirname "$0")/lib.sh"

unbroken

mutation 'a retry that holds the lock does not end the wait for it' machine/waiting.rs \
    's/Noted::Waits\(_\) if !key\.has_lock/Noted::Waits(_) if key.entry == key.entry/'
mutation 'a permit does not start the waiting vqueue' machine/waiting.rs \
    's/if let Some\(vqueue\) = self\.registry\.wake\(handle\)/if let (Some(vqueue), true) = (self.registry.find_by(handle), false)/' \
    's/self\.registry\.find_by\(handle\)/self.registry.vqueue(handle)/'
mutation 'a permit starts the waiting vqueue and is lost' machine/waiting.rs \
    's/self\.spawn\(handle, vqueue, Some\(permits\), effects\)/{ let _ = permits; self.spawn(handle, vqueue, None, effects) }/'
mutation 'an unneeded request stays at the limiter' machine/waiting.rs \
    's/self\.tell_limiter\(LimiterMessage::Withdraw\(handle\), effects\);//'
mutation 'the vqueue that made room is forgotten' machine/vqueues.rs \
    's/self\.wait_for_permit\(vqueue, head, true, effects\)/{ let _ = head; }/'
mutation 'any row of a locked queue is taken for its head' machine/waiting.rs \
    's/self\.wait_for_permit\(vqueue, row, false, effects\)/self.wait_for_permit(vqueue, row, true, effects)/'
mutation 'a client is answered when its command is proposed' machine/mod.rs \
    's/Phase::Leading => self\.propose_for\(now, command, reply, effects\),/Phase::Leading => { let answer = Answer::Reply(Reply::Changed(0)); self.propose(now, command, None, effects); effects.push(PartitionEffect::Answer { to: reply, answer }); }/'
planted 'a new limiter does not know the lock holders' engine/src/limiter/rules.rs \
    's/self\.locks\.seed\(vqueue, Holder::Entry\(entry\), self\.now\);/let _ = (vqueue, entry);/'
# The simulation cannot detect this: the retry is at the head of its vqueue with or without it.
mutation 'a retry releases its lock' apply/retry.rs \
    's/keeps_lock: has_lock, abort/keeps_lock: has_lock \&\& false, abort/'

finish
