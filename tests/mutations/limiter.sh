#!/usr/bin/env bash
# Do the limiter's tests fail when the limiter is wrong? Each mutation below breaks one rule of the
# limiter in a copy of the engine; a test of engine/tests/limiter must then fail: the model against
# the naive limiter for grants and waits, the named tests for turns, weights and removed state.
#
#   tests/mutations/limiter.sh          all mutations
#   tests/mutations/limiter.sh lock     mutations whose name contains the word
#
# PROPTEST_CASES sets the cases per property, CARGO_TARGET_DIR the build directory. Exit code 0 when
# every mutation was caught.
set -euo pipefail
machine=limiter
only=${1:-}
source "$(dirname "$0")/lib.sh"
# Failures only have to be found, not minimized.
export PROPTEST_MAX_SHRINK_ITERS=${PROPTEST_MAX_SHRINK_ITERS:-0}

# The named tests run first, because they are fast; the model runs only if none of them fails. A
# time limit catches a limiter that never ends a step.
model() {
    (cd "$copy" && cargo test --quiet --offline -p forebay-engine --test "$machine" --no-run &&
        timeout "${MUTATION_TIMEOUT:-120}" cargo test --quiet --offline -p forebay-engine --test "$machine" -- \
        --skip hundred_thousand --skip a_limited_tenant --skip "model::" &&
        timeout "${MUTATION_TIMEOUT:-120}" cargo test --quiet --offline -p forebay-engine \
            --test "$machine" "model::") \
        >"$copy.log" 2>&1
}

unbroken

mutation 'a grant does not count at the levels above' counters.rs \
    '/pub\(super\) fn take\(/,/^    }/s/at = counter\.parent;/at = None;/'
mutation 'a release does not count at the levels above' counters.rs \
    '/pub\(super\) fn put\(/,/^    }/s/at = counter\.parent;/at = None;/'
mutation 'one more than the limit' counter.rs \
    's/self\.limit\.saturating_sub\(self\.usage\)/self.limit.saturating_sub(self.usage).saturating_add(1)/'
mutation 'tokens are not taken' counters.rs \
    's/bucket\.take\(count, now\);/let _ = \&bucket;/'
mutation 'the token of an unused permit is lost' counters.rs \
    's/bucket\.put\(1, now\);/let _ = \&bucket;/'
mutation 'a used permit brings its token back' counters.rs \
    's/\.filter\(\|_\| unused\)/.filter(|_| unused || !unused)/'
mutation 'a bucket that is not full is forgotten' counters.rs \
    's/if full_at > now \{/if full_at > now \&\& false {/'
mutation 'counters are never forgotten' counters.rs \
    's/while self\.idle\.len\(\) > self\.idle_max/while self.idle_max == u32::MAX/'
mutation 'a counter keeps the rule it was made with' rules.rs \
    's/self\.counters\.govern\(\*index, &self\.rules, self\.now\);//'
mutation 'changed rules wake no waiter' rules.rs \
    's/self\.counters\.update_ready\(&self\.clients\.slab, \*index, self\.now\);//'
mutation 'only the first of several patterns is used' rules.rs \
    's/wide\.iter\(\)\.any/wide.iter().take(1).any/'
mutation 'a rule for one key affects no client' rules.rs \
    's/counter\.filter\(\|index\| listed\.insert\(\*index\)\)/counter.filter(|index| listed.insert(*index) \&\& false)/'
mutation 'the seed omits running entries' rules.rs \
    's/self\.counters\.take_over\(home, self\.now\);//'
mutation 'the seed omits the rules' rules.rs \
    '/for update in &seed\.rules/,/}/s/self\.rules\.apply\(update\);/let _ = update;/'
mutation 'the seed omits the locks' rules.rs \
    's/self\.locks\.seed\(vqueue, Holder::Entry\(entry\), self\.now\);/let _ = (vqueue, entry);/'
mutation 'a lock does not block' locks.rs \
    's/\(Some\(_\), _\) => true,/(Some(_), _) => false,/'
mutation 'a kept lock blocks no other entry' locks.rs \
    's/=> holder != entry,/=> holder != entry \&\& false,/'
mutation 'a freed lock wakes no waiter' locks.rs \
    's/woken\.take_from\(&mut lock\.waiters, \|_\| true\);/let _ = (\&mut lock, \&woken);/'
mutation 'a retry loses its lock' locks.rs \
    's/match keep\.or\(/match None::<EntryId>.or(/'
mutation 'withdraw leaves its permits behind' acquire.rs \
    's/self\.give_back\(permit, None, effects\);/let _ = (permit, \&mut *effects);/'
mutation 'withdraw returns permits that were handed over' release.rs \
    '/pub\(super\) fn hand_over/,/^    }/s/self\.leave_client\(permit\);/let _ = permit;/'
mutation 'a permit of another incarnation is accepted' release.rs \
    's/permit\.incarnation != self\.incarnation/permit.incarnation != permit.incarnation/'
mutation 'a freed slot is not offered' release.rs \
    's/self\.counters\.update_ready_if_awaited\(&self\.clients\.slab, permit\.home, self\.now\);//'
mutation 'weights are ignored' order.rs \
    's/counter\.deficit = counter\.weight;/counter.deficit = 1;/'
mutation 'a turn never ends' order.rs \
    's/if counter\.deficit == 0 && counter\.in_list == InList::Ring/if counter.deficit > counter.weight/'
mutation 'deeper counters always overtake' order.rs \
    's/ \|\| \*overtakes >= OVERTAKES_MAX//'
mutation 'no counter overtakes' order.rs \
    's/let local = local\.map_or\(oldest, .*$/let local = local.map_or(oldest, |_| oldest);/'
mutation 'the timer of a token is not set' mod.rs \
    's/effects\.push\(LimiterEffect::SetTimer\(next\)\);//'
mutation 'the clock may step back' mod.rs \
    's/self\.now = self\.now\.max\(now\);/self.now = now;/'
mutation 'capacity is not asked for' mod.rs \
    's/effects\.extend\(want\.map\(LimiterEffect::WantCapacity\)\);/let _ = want;/'
mutation 'a slot more than was leased' lease.rs \
    's/CapacityMode::Leased => self\.leased\.saturating_sub\(self\.used\)/CapacityMode::Leased => (self.leased + 1).saturating_sub(self.used)/'
mutation 'a claim is ignored' lease.rs \
    's/self\.claimed = self\.leased > 0;/self.claimed = false;/'
mutation 'a recall is ignored' lease.rs \
    's/self\.recalled = true;//'
mutation 'a paused counter starts its waiters' counter.rs \
    's/if paused\.is_some\(\) \{ 0 \} else \{ limit \}/limit/'
mutation 'a pause of a service does not stop its waiters' pauses.rs \
    's/None => self\.pause_service\(service, rule\),/None => {}/'
mutation 'a resumed service wakes no waiter' pauses.rs \
    's/self\.pauses\.services\.remove\(service\);//'
mutation 'one partition is claimed from at a time' capacity_pool.rs \
    's/partition\.claimed = true;/partition.claimed = true; effects.push(PoolEffect::Claim(*id)); break;/'

finish
