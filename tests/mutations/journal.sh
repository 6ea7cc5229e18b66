#!/usr/bin/env bash
# Do the tests of journals, children and the outbox fail when a rule is broken? Each mutation below
# breaks one rule in a copy of the engine; the named tests or the property must then fail.
#
#   tests/mutations/journal.sh          all mutations
#   tests/mutations/journal.sh cancel   mutations whose name contains the word
#
# CARGO_TARGET_DIR sets the build directory. Exit code 0 when every mutation was caught.
set -euo pipefail
machine=partition
tests='-- journal children calls_property outbox incarnation'
only=${1:-}
source "$(dirname "$0")/lib.sh"

unbroken

mutation 'a suspended entry is not woken by an answer' apply/journal.rs \
    's/if wakes \{/if wakes \&\& false {/'
mutation 'a suspend does not look whether the answer is there' apply/suspend.rs \
    's/!all_pending\(context, attempt\)\?/false/'
mutation 'a suspended entry loses its lock' apply/suspend.rs \
    's/let keeps_lock = holds_lock \&\& !releases_key;/let keeps_lock = false; let _ = releases_key;/'
mutation 'a late invoke makes its child after a cancel' apply/deliver.rs \
    's/if let Some\(tombstone\) = context\.tables\.tombstone\(child\)\? \{/if let Some(tombstone) = context.tables.tombstone(child)?.filter(|_| false) {/'
mutation 'a message that comes again is applied again' apply/deliver.rs \
    's/if this <= mark \{/if this < mark {/'
mutation 'a child that ended is not answered for again' apply/deliver.rs \
    's/\|ended\| Known::Answer\(ended\.outcome\(\)\.into\(\)\)/|_| Known::Live/'
mutation 'the answer to an earlier run is taken' apply/deliver.rs \
    's/ \&\& row\.run == \*run \&\& row\.child == Some\(\*child\)//'
mutation 'the end of a child sends no answer' apply/outbox.rs \
    's/if parent\.is_awaited \{/if parent.is_awaited \&\& false {/'
mutation 'a cancel does not follow to children' apply/outbox.rs \
    's/if row\.has_live_child\(\) \{/if row.has_live_child() \&\& false {/'
mutation 'the outbox index starts again with a new leader' state.rs \
    's/outbox_seq: RecordSeq\(fsm_number\(tables, FsmSlot::OutboxSeq\)\?\)/outbox_seq: RecordSeq(0)/'
mutation 'a call waits for the key of an ancestor' apply/write_journal.rs \
    's/if child\.vqueue\.has_lock\(\)$/if child.vqueue.has_lock() \&\& false/'
mutation 'calls within calls have no end' apply/write_journal.rs \
    's/if depth >= CALL_DEPTH_MAX \{/if depth > CALL_DEPTH_MAX {/'
mutation 'a full journal takes one more' apply/write_journal.rs \
    's/if journal\.rows >= JOURNAL_ROWS_MAX \{/if journal.rows > JOURNAL_ROWS_MAX {/'
mutation 'a promise that was resolved early is not kept' apply/journal.rs \
    's/filter\(\|promise\| promise\.is_settled\)/filter(|_| false)/'
mutation 'a promise is resolved twice' apply/settle_promise.rs \
    's/is_some_and\(\|promise\| promise\.is_settled\)/is_some_and(|_| false)/'
mutation 'an operation finishes twice' apply/journal.rs \
    's/row\.filter\(\|row\| !row\.is_finished\(\) \&\& is_meant\(row\)\)/row.filter(|row| is_meant(row))/'
mutation 'an operation is written over' apply/write_journal.rs \
    's/if let Some\(there\) = context\.tables\.journal_row\(entry, key\)\? \{/if let Some(there) = context.tables.journal_row(entry, key)?.filter(|_| false) {/'
mutation 'a restart keeps operations finished after its own' apply/journal.rs \
    's/row\.is_finished\(\) \&\& row\.sequence < kept_below/row.is_finished() \&\& kept_below > 0/'
mutation 'older binaries may open a partition with journals' apply/journal.rs \
    's/put_fsm_number\(self\.tables, FsmSlot::MinVersion, format\);//'
mutation 'a leader proposes a sleep that is over again and again' machine/journals.rs \
    's/self\.journals\.is_waking = true;//'
mutation 'a leader does not look for sleeps' machine/leading.rs \
    's/self\.find_due\(effects\);//'
mutation 'messages are not handed on' machine/journals.rs \
    's/self\.journals\.added\.push\(message\)/drop(message)/'
mutation 'a full target takes one more call' machine/outbox.rs \
    's/self\.stored \+ self\.proposed < messages_max/self.stored + self.proposed <= messages_max/'
mutation 'a delivery makes no room' machine/outbox.rs \
    's/target\.stored = target\.stored\.saturating_sub\(1\);/let _ = target;/'
mutation 'calls of an attempt that is over still wait' machine/outbox.rs \
    's/target\.waiting\.retain\(\|waiting\| waiting\.token != token\);/let _ = token;/'
mutation 'a call that waits overtakes an earlier one' machine/outbox.rs \
    's/target\.waiting\.pop_front\(\)/target.waiting.pop_back()/'
mutation 'an attempt is suspended although a call of it waits' machine/outbox.rs \
    's/if !self\.makes_wait\(suspend\.token\)/if true/'
mutation 'a new leader does not count the messages that are there' machine/leading.rs \
    's/effects\.push\(PartitionEffect::CountOutbox\);//'
mutation 'messages after a restore are taken for earlier ones' apply/deliver.rs \
    's/command\.incarnation\.max\(message\.incarnation\)/command.incarnation/'
mutation 'an incarnation may shrink' apply/check_calls.rs \
    's/if incarnation <= context\.state\.incarnation/if incarnation == context.state.incarnation/'
mutation 'a restore checks no calls' apply/check_calls.rs \
    's/put_checked\(context, CheckedTable::default\(\)\);//'
mutation 'a call with an answer is checked' apply/check_calls.rs \
    's/ \&\& !row\.is_finished\(\)//'
mutation 'a child that is lost is not reported' apply/deliver.rs \
    's/^            JournalOutcome::failure\(JournalFailureKind::DroppedPartition, text\)/            let _ = text; return Ok(());/'

finish
