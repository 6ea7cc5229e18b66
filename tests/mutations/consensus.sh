#!/usr/bin/env bash
# Does the simulation of consensus detect a broken rule? Each mutation below plants one bug in a
# copy of the engine; one of the first 1,000 seeds must fail.
#
#   tests/mutations/consensus.sh          all mutations
#   tests/mutations/consensus.sh read     mutations whose name contains the word
#
# CARGO_TARGET_DIR sets the build directory. Exit code 0 when every mutation was caught.
set -euo pipefail
machine=consensus
only=${1:-}
source "$(dirname "$0")/lib.sh"

model() {
    (cd "$copy" && FOREBAY_SIM_SEED=0 FOREBAY_SIM_SEEDS="${SEEDS:-1000}" \
        timeout "${MUTATION_TIMEOUT:-600}" cargo test --quiet --offline -p forebay-engine \
        --test consensus -- --exact sim::seeds_hold) >"$copy.log" 2>&1
}

noticed() {
    echo "$(grep -o 'seed [0-9]*' "$copy.log" | head -1):" \
        "$(grep -m1 -A2 'panicked at' "$copy.log" | sed -n 2,3p | tr '\n' ' ' | cut -c1-90)"
}

unbroken

mutation 'a promise or an acceptance leaves before it is durable' group/instance.rs \
    '/PaxosMsg::Promise\(_\) \| PaxosMsg::Prepare/,/\}/s/self\.durable\.written/0/'
mutation 'the leader counts itself before it is durable' group/links.rs \
    's/is_mine && self\.segment\(\)\.base .*/false/'
mutation 'entries are reported before they are durable' group/decide.rs \
    's/mirror\.decided\.min\(self\.durable\.end\(\)\);/mirror.decided;/'
mutation 'a message of an older segment is let in' group/links.rs \
    's/let is_current = segment == self\.segment\(\)\.hash;/let is_current = true;/'
mutation 'a second seal' group/propose.rs \
    's/self\.rolling_until\.is_some\(\) \|\| self\.store\.get\(\)\.seal\(\)\.is_some\(\)/self.rolling_until.is_some()/'
planted 'a learner that votes' \
    engine/src/consensus/group/decide.rs \
    's/let votes = next\.pid_of\(.*/let votes = true;/' \
    engine/src/consensus/group/instance.rs \
    's/\.expect\("a voter is a member"\)/.unwrap_or(1)/' \
    engine/src/consensus/group/links.rs \
    's/let Some\(pid\) = self\.segment\(\)\.pid_of_storage\(from\) else/let Some(pid) = Some(self.segment().pid_of_storage(from).unwrap_or(1)) else/'
mutation 'a read without a barrier' group/propose.rs \
    's/self\.requests\.reads\.push\(request\);/let index = self.walked; self.emit(Effect::Answer(Answer::ReadAt { request, index }));/'
mutation 'a request is answered twice' group/roll.rs \
    's/self\.expect\(index, request\);/self.expect(index, request); self.expect(index, request);/'
planted 'a wiped member that votes' \
    engine/tests/consensus/world/faults.rs \
    's/StorageId\(node\.storage\(\)\.0 \+ 1\)/node.storage()/' \
    engine/src/consensus/group/links.rs \
    's/if let Some\(known\) = self\.peers\.get\(\&from\)/if let Some(known) = self.peers.get(\&from).filter(|_| false)/'
mutation 'a rolled-back disk that votes' group/links.rs \
    's/if let Some\(known\) = self\.peers\.get\(\&from\)/if let Some(known) = self.peers.get(\&from).filter(|_| false)/'
mutation 'a seal before its members are ready' group/roll.rs \
    's/durable >= mirror\.base\(\) \&\& .*/lag_max > 0/'
finish
