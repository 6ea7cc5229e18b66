#!/usr/bin/env bash
# Does the simulation find bugs? Each bug below is planted in a copy of the workspace; seeds are
# then run until one fails. `docs/testing.md` has a table of the results.
#
#   tests/mutations/sim.sh            all of them
#   tests/mutations/sim.sh wake-up    bugs whose name contains the word
#
# FOREBAY_SIM_SEEDS sets the number of seeds after which a bug counts as not found (default 2000),
# CARGO_TARGET_DIR the build directory. Exit code 0 when every bug was found.
set -euo pipefail
only=${1:-}
seeds=${FOREBAY_SIM_SEEDS:-2000}
source "$(dirname "$0")/lib.sh"

# Runs seeds in the copy; returns 0 when all pass.
simulate() {
    (cd "$copy" && FOREBAY_SIM_SEED=0 FOREBAY_SIM_SEEDS=$1 cargo test --quiet --offline \
        --all-features --test main -- --exact sim::named_seeds_hold --nocapture) >"$copy.log" 2>&1
}

model() {
    simulate "$seeds"
}

noticed() {
    local seed
    seed=$(grep -oP '^seed \K[0-9]+(?=: )' "$copy.log" | sort -n | head -1)
    # A panic during a run is printed before its seed.
    local panic
    panic=$(grep -m1 -A1 "panicked at .*\(engine\|actors\|storage\)/src" "$copy.log" | tail -1 | cut -c1-80)
    echo "$((seed + 1)) seeds; $(grep -m1 -P "^seed $seed: " "$copy.log" | cut -c1-90) $panic"
}

if [[ -z $only ]] && ! only_applies; then
    simulate 100 || { cat "$copy.log"; echo "seeds fail without a planted bug" >&2; exit 1; }
    echo "passes          without a planted bug, 100 seeds"
fi

apply=engine/src/partition/apply
machine=engine/src/partition/machine

planted 'notify before commit: records are sent before they are written' \
    actors/src/log_writer/mod.rs \
    's/^        let mut outcomes = self\.store\.append\(&appends\);/        let told: Vec<Appended> = appends.iter().map(|a| Appended::At(self.store.end(a.partition).next())).collect();\n        let mut outcomes = self.store.append(\&appends);\n        if outcomes.is_err() {\n            for (((partition, _), records), outcome) in groups.into_iter().zip(told) {\n                self.tell(partition, records, outcome);\n            }\n            return;\n        }/'
planted 'tombstone evicted: a removal during a scan is forgotten' \
    engine/src/inbox/cache.rs 's/flight\.overlay\.tombstone\(key\)/let _ = \&flight.overlay/'
planted 'no seeding after failover: a new limiter knows no rules, locks, running entries' \
    actors/src/partition/seed.rs \
    's/let seed = Seed \{ rules: self\.rules\(\), locks, running: holders, \.\.Seed::default\(\) \};/drop((self.rules(), locks, holders)); let (mut running, mut left) = (running, left); running.clear(); left.clear(); let seed = Seed { rules: Vec::new(), locks: Vec::new(), running: Vec::new(), ..Seed::default() };/'
planted 'completion without token check: the end of any attempt is accepted' \
    actors/src/executor/running.rs 's/let Some\(mut running\) = self\.running\.get_mut\(&key\) else \{ return \};/let Some(mut running) = self.running.get_mut(\&key).filter(|_| false) else { return };/' \
    $machine/attempts.rs 's/if self\.on_handler_gone\(token, effects\) \{/if self.on_handler_gone(token, effects) \&\& false {/' \
    $machine/attempts.rs 's/let known = self\.attempts\.by_token\.get\(&token\)\.filter\(\|known\| known\.entry == entry\);/let found = self.attempts.by_token.iter().find(|(_, known)| known.entry == entry);\n        let (token, known) = found.map_or((token, None), |(token, known)| (*token, Some(known)));/' \
    $apply/complete.rs 's/ && row\.token == token//'
planted 'permit released twice: a counter goes down by two' \
    engine/src/limiter/release.rs 's/^        let freed = self\.counters\.put\(permit\.home, unused, self\.now\);/        self.counters.put(permit.home, unused, self.now);\n        let freed = self.counters.put(permit.home, unused, self.now);/'
planted 'dedup skipped: a record that is in the log twice is applied twice' \
    $apply/mod.rs 's/if seen\.is_some_and\(\|seen\| row <= seen\) \{/if false \&\& seen.is_some_and(|seen| row <= seen) {/'
planted 'wake-up dropped: messages that arrive while a vqueue goes cold do not start it again' \
    $machine/registry.rs 's/if kept \{ Gone::Restart\(vqueue\) \}/if kept \&\& false { Gone::Restart(vqueue) }/'
planted 'fence ignored: by the log and when a record is applied' \
    storage/src/log/memory.rs 's/if append\.epoch < position\.fence \{/if false {/' \
    $apply/mod.rs 's/if own\.epoch < state\.leader_epoch \{/if false {/;s/if seen\.is_some_and\(\|seen\| row <= seen\) \{/if key != DedupKey::Leader \&\& seen.is_some_and(|seen| row <= seen) {/'
planted 'a known entry is stored again' \
    $apply/enqueue.rs 's/is_known\(context, new\.id\)\? \{$/is_known(context, new.id)? \&\& false {/'
planted 'a permit is forgotten when its decision is void' \
    $machine/attempts.rs 's/^                self\.give_back\(token, lock_holder, effects\);/                let _ = lock_holder; self.attempts.remove(token);/'
planted 'a permit is released before its handler has stopped' \
    $machine/stopping.rs 's/let Some\(handler\) = self\.handlers\.get_mut\(&token\) else \{ return false \};/let Some(handler) = self.handlers.get_mut(\&token).filter(|_| false) else { return false };/'
planted 'a leader that steps down returns its slots at once' \
    $machine/stopping.rs 's/let running = self\.stopping\.count\(\);/let running = self.stopping.count() * 0;/'
planted 'a replica that is behind misses a record' \
    actors/src/log_writer/subscribers.rs 's/^        let mut subscriber|^        let sent = subscription\.after;/        let sent = if subscription.after.0 > 0 { subscription.after.next() } else { subscription.after };/'
planted 'applied taken for durable when the log is trimmed' \
    actors/src/partition/mod.rs 's/match self\.store\.durable_lsn\(\) \{/match self.store.applied_lsn() {/'
planted 'a result that is too large is proposed' \
    $machine/bounds.rs 's/AttemptEnd::Success\(bytes\) if bytes\.len\(\) > self\.room\(\)/AttemptEnd::Success(bytes) if bytes.len() > self.room() \&\& false/'
planted 'the outbox is truncated before the delivery is durable' \
    engine/src/shuffle/mod.rs 's/=> self\.on_not_delivered\(now, target\)/=> self.on_delivered(target)/'
planted 'the outbox index starts again with a new leader' \
    engine/src/partition/state.rs 's/outbox_seq: RecordSeq\(fsm_number\(tables, FsmSlot::OutboxSeq\)\?\),/outbox_seq: RecordSeq(0),/'
planted 'a suspended parent is not woken when the child ended first' \
    $apply/suspend.rs 's/!all_pending\(context, attempt\)\?/false/'
planted 'a result is returned before its row is written' \
    src/journal/step.rs 's/ticket\.write_step\(outcome\);/ticket.write_step(outcome.clone());\n            return decode(\&ticket, outcome);/'
planted 'a future is dropped when its suspension is proposed' \
    $machine/journals.rs 's/self\.journals\.suspends\.push\(suspend\);/effects.push(PartitionEffect::Abort { entry, token });\n        self.journals.suspends.push(suspend);/'
planted 'a late invocation makes its child after a cancel' \
    $apply/deliver.rs 's/if let Some\(tombstone\) = context\.tables\.tombstone\(child\)\? \{/if let Some(tombstone) = context.tables.tombstone(child)?.filter(|_| false) {/'

finish
