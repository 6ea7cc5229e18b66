//! How long reads and writes wait after a member was killed, in rounds.

use super::calls::{get, put, time_until_done};
use super::*;

/// Rounds in a normal run, and with `FOREBAY_TEST_LONG`.
const ROUNDS: usize = 6;
const ROUNDS_LONG: usize = 50;
/// The promise, measured in the long form.
const WITHIN: Duration = Duration::from_secs(1);
/// In a normal run other tests may keep the machine busy.
const WITHIN_BUSY: Duration = Duration::from_secs(10);
const CALL: Duration = Duration::from_secs(20);

/// Kills a node and returns the longest time until a call that began then succeeded: a read and a
/// write, at both of the others.
fn kill_and_call(cluster: &mut Cluster, at: usize, round: usize) -> Duration {
    cluster.kill(at);
    let began = Instant::now();
    let others = (0..3).filter(|other| *other != at);
    let calls = others.flat_map(|other| {
        let key = format!("round/{other}");
        [(other, get(&key, CALL)), (other, put(&key, &round.to_string(), CALL))]
    });
    let calls: Vec<_> = calls.map(|(other, call)| (cluster.socket(other), call)).collect();
    let longest = std::thread::scope(|scope| {
        let calls: Vec<_> = calls
            .iter()
            .map(|(socket, call)| scope.spawn(move || time_until_done(socket, call, began)))
            .collect();
        calls.into_iter().map(|call| call.join().unwrap()).max().unwrap()
    });
    cluster.start(at);
    cluster.all_healthy();
    longest
}

/// Of all, this many hundredths are at most as long.
fn quantile(times: &[Duration], hundredths: usize) -> Duration {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    sorted[(sorted.len() * hundredths).div_ceil(100).max(1) - 1]
}

#[test]
fn reads_and_writes_continue_after_a_member_was_killed() {
    let mut cluster = Cluster::provisioned();
    let is_long = std::env::var_os("FOREBAY_TEST_LONG").is_some();
    let rounds = if is_long { ROUNDS_LONG } else { ROUNDS };
    let (mut of_leaders, mut of_followers) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        let leader = cluster.leader();
        if round % 2 == 0 {
            of_leaders.push(kill_and_call(&mut cluster, leader, round));
        } else {
            of_followers.push(kill_and_call(&mut cluster, (leader + 1) % 3, round));
        }
    }
    let all = [&of_leaders[..], &of_followers[..]].concat();
    for (what, times) in [("a leader", &of_leaders), ("a follower", &of_followers), ("any", &all)] {
        crate::place::say(&format!(
            "kill -9 of {what}, {} rounds: reads and writes wait p50 {:?}, p99 {:?}, at most {:?}",
            times.len(),
            quantile(times, 50),
            quantile(times, 99),
            quantile(times, 100)
        ));
    }
    let promised = if is_long { WITHIN } else { WITHIN_BUSY };
    assert!(quantile(&all, 99) < promised, "{all:?}");
}
