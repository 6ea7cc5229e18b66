#!/usr/bin/env bash
# Does the inbox model fail when the inbox is wrong? Each mutation below breaks one
# rule of the inbox in a copy of the engine; the model test must then fail.
#
#   tests/mutations/inbox.sh          all mutations
#   tests/mutations/inbox.sh horizon  mutations whose name contains the word
#
# FOREBAY_CASES sets the cases per property, CARGO_TARGET_DIR the build directory. Exit code 0 when
# the model caught every mutation.
set -euo pipefail
machine=inbox
only=${1:-}
source "$(dirname "$0")/lib.sh"

unbroken

mutation 'tombstone is not upgraded by an add' overlay.rs \
    's/\*last = change;/if change == Change::Tombstone { *last = change; }/'
mutation 'a removal forgets the add instead of leaving a tombstone' overlay.rs \
    's/\*last = change;/*last = change; if change == Change::Tombstone { self.changes.remove(index); }/'
mutation 'overlay evicts its back without a horizon' overlay.rs \
    's/self\.horizon = self\.changes\.pop\(\)\.map\(.*$/self.changes.pop();/'
mutation 'overlay drops what sorts last without a horizon' overlay.rs \
    's/(index == self\.changes\.len\(\)) => self\.horizon = Some\(key\),/\1 => {}/'
mutation 'overlay records at and above the horizon' overlay.rs \
    's/if self\.horizon\.is_some_and\(.*key >= horizon\) \{/if false {/'
mutation 'merge takes rows at and above the horizon' refill.rs \
    's/let is_beyond_horizon = .*/let is_beyond_horizon = false;/'
mutation 'merge is not bound by the last scanned row' refill.rs \
    's/let is_beyond_scan = .*/let is_beyond_scan = scanned_to.is_none() \&\& false;/'
mutation 'coverage ends at the back, not at the anchor' cache.rs \
    's/if self\.covers\(key\)/if self.items.back().is_some_and(|back| key <= *back)/'
mutation 'no tombstone on leaving dispatched' cache.rs \
    's/self\.dispatched\.remove\(index\);/self.dispatched.remove(index); return;/'
mutation 'no tombstone at all' cache.rs \
    's/flight\.overlay\.tombstone\(key\)/let _ = \&flight.overlay/'
mutation 'exhaustion ignores whether the end was reached' refill.rs \
    's/self\.complete = reached_end \&\& /self.complete = /'
mutation 'exhaustion ignores the horizon' refill.rs \
    's/self\.complete = reached_end \&\& horizon\.is_none\(\)/self.complete = reached_end/'
mutation 'exhaustion ignores that the cache filled' refill.rs \
    's/ \&\& !self\.is_full\(\);/;/'
mutation 'dispatched keys are not skipped' refill.rs \
    's/if is_there \&\& !self\.is_dispatched\(key\)/if is_there/'
mutation 'the anchor does not advance over skipped keys' refill.rs \
    's/^            self\.anchor = Some\(key\);/if is_there \&\& !self.is_dispatched(key) { self.anchor = Some(key); }/'
mutation 'overflow keeps the anchor' cache.rs \
    's/self\.anchor = self\.items\.back\(\)\.copied\(\);//'
mutation 'overflow stays complete' cache.rs \
    '/self\.anchor = self\.items\.back/{n;s/self\.complete = false;//;}'
mutation 'overflow leaves the refill in flight' cache.rs \
    's/self\.cancel_refill\(\);//'
mutation 'an ignored append leaves it complete' cache.rs \
    's/Refill::Standby => self\.complete = false,/Refill::Standby => {}/'
mutation 'an append beyond what is known is cached' cache.rs \
    's/Refill::Standby if self\.complete \&\& !full/Refill::Standby if !full/'
mutation 'a dispatched key is enqueued again' cache.rs \
    '/pub fn enqueue/,/covers/s/if self\.is_dispatched\(key\)/if false/'
mutation 'the overlay is ignored' refill.rs \
    's/Joined::new\(rows, flight\.overlay\.changes\(\)\)/Joined::new(rows, \&[])/'
mutation 'the row wins over the overlay' refill.rs \
    's/is_there = change == Change::Add;/is_there |= change == Change::Add;/'
mutation 'the answer of another scan is taken' refill.rs \
    's/if flight\.id == id =>/if flight.id >= id =>/'
mutation 'a new incarnation claims to know all' mod.rs \
    's/complete: false,/complete: true,/'
mutation 'a new incarnation forgets what is dispatched' mod.rs \
    's/dispatched: dispatched\.into\(\)/dispatched: { dispatched.clear(); dispatched.into() }/'
mutation 'a yielded entry is not put back' cache.rs \
    '/self\.remove\(key\);/{n;s/self\.enqueue\(key\);//;}'

finish
