//! Clients of three processes under kill -9, SIGSTOP and cuts: what they see is linearizable, as a
//! checker from outside judges.

use std::sync::atomic::Ordering;

use super::calls::Histories;
use super::*;

/// Rounds of faults in a normal run, and with `FOREBAY_TEST_LONG`.
const ROUNDS: u64 = 8;
const ROUNDS_LONG: u64 = 60;
/// Clients of each node.
const CLIENTS: u64 = 2;

/// A fault, for a part of a second, to a node and its neighbour.
fn disturb(cluster: &mut Cluster, fault: u64, at: usize) -> &'static str {
    let (next, last) = ((at + 1) % 3, (at + 2) % 3);
    let pause = |ms| std::thread::sleep(Duration::from_millis(ms));
    let proxies = |cluster: &Cluster, cut: &[(usize, usize)]| {
        let proxies = cluster.proxies.as_ref().unwrap();
        cut.iter().for_each(|(from, to)| proxies.cut(*from, *to));
    };
    let what = match fault {
        0 => {
            cluster.kill(at);
            pause(400);
            cluster.start(at);
            "killed"
        }
        1 => {
            cluster.process(at).signal("STOP");
            pause(900);
            cluster.process(at).signal("CONT");
            "stopped"
        }
        2 => {
            proxies(cluster, &[(at, next)]);
            pause(1200);
            "cut in one direction"
        }
        3 => {
            proxies(cluster, &[(at, next), (next, at), (at, last), (last, at)]);
            pause(1200);
            "cut off"
        }
        4 => {
            proxies(cluster, &[(at, next), (at, last)]);
            pause(1200);
            "not heard by the others"
        }
        _ => {
            cluster.process(at).signal("STOP");
            cluster.kill(next);
            pause(300);
            cluster.process(at).signal("CONT");
            cluster.start(next);
            "stopped, and its neighbour killed"
        }
    };
    cluster.proxies.as_ref().unwrap().mend_all();
    what
}

#[test]
fn histories_under_kills_stops_and_cuts_are_linearizable() {
    let mut cluster = Cluster::with_proxies();
    let is_long = std::env::var_os("FOREBAY_TEST_LONG").is_some();
    let rounds = if is_long { ROUNDS_LONG } else { ROUNDS };
    let histories = Histories::new();
    let mut kinds = std::collections::BTreeMap::new();
    std::thread::scope(|scope| {
        for client in 0..3 * CLIENTS {
            let socket = cluster.socket(client as usize % 3);
            let histories = &histories;
            scope.spawn(move || histories.run_client(socket, client + 1));
        }
        for round in 0..rounds {
            // Every fault to a leader and to a follower, in turn.
            let fault = round % 6;
            let leader = (0..3).find_map(|at| cluster.leader_now(at)).unwrap_or(0);
            let at = if round % 2 == 0 { leader } else { (leader + 1) % 3 };
            *kinds.entry(disturb(&mut cluster, fault, at)).or_insert(0) += 1;
            std::thread::sleep(Duration::from_millis(500));
            histories.next_round();
        }
        histories.end();
    });
    cluster.all_healthy();
    crate::place::say(&format!("{}; {kinds:?}", histories.summary()));
    let answered = histories.answered.load(Ordering::Relaxed);
    assert!(answered > 10 * rounds, "clients are answered: {}", histories.summary());
    histories.check();
}
