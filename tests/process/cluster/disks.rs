//! Lost disks under load, large states for joining nodes, and names that are taken.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use super::calls::{ask, get, put};
use super::*;

const CALL: Duration = Duration::from_secs(20);
/// A value that fits into a request to the socket.
const LARGE_BYTES: usize = 900 << 10;
const LARGE_KEYS: usize = 24;

/// Writes one value after the other to a key until the end; what was acknowledged last, by key.
fn load(socket: PathBuf, key: &str, done: &Mutex<BTreeMap<String, u64>>, ends: &AtomicBool) {
    for value in 0.. {
        if ends.load(Ordering::Relaxed) {
            return;
        }
        let within = Duration::from_millis(500);
        let answer = ask(&socket, &put(key, &value.to_string(), within), CALL);
        if let Ok(Answer::Written { .. }) = answer {
            done.lock().unwrap().insert(key.to_owned(), value);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn two_of_three_disks_are_lost_under_load_and_the_cluster_is_recovered() {
    let mut cluster = Cluster::provisioned();
    let (done, ends) = (Mutex::new(BTreeMap::new()), AtomicBool::new(false));
    let sure = std::thread::scope(|scope| {
        for client in 0..6 {
            let (socket, done, ends) = (cluster.socket(client % 3), &done, &ends);
            scope.spawn(move || load(socket, &format!("load/{client}"), done, ends));
        }
        until("every client writes", || (done.lock().unwrap().len() == 6).then_some(()));
        // Everything acknowledged so far reaches b before the others are lost.
        let sure = done.lock().unwrap().clone();
        let decided = cluster.status(0).unwrap()["group"]["decided"].as_u64();
        cluster
            .until_status("b has it", 1, |status| status["group"]["durable"].as_u64() >= decided);
        cluster.kill(0);
        cluster.kill(2);
        cluster.wipe(0);
        cluster.wipe(2);
        std::thread::sleep(Duration::from_millis(300));
        ends.store(true, Ordering::Relaxed);
        sure
    });
    let read = cluster.ask(1, &["get", "load/1", "--within", "1s"]);
    read.expect_refused(&["the metadata are not available"]);
    cluster.stop(1);
    let look = cluster.ask(1, &["recover", "--name", "b"]).expect(0, &[]).text();
    assert!(look.contains("nothing was changed"), "{look}");
    cluster.ask(1, &["recover", "--name", "b", "--accept-data-loss"]).expect(0, &[]);
    cluster.start(1);
    for (key, least) in &sure {
        let found: u64 = cluster.get(1, key).parse().unwrap();
        assert!(found >= *least, "{key}: {found}, but {least} was on this disk");
    }
    cluster.start(0);
    cluster.start(2);
    cluster.all_healthy();
    assert_eq!(cluster.put(0, "after", "works"), 1);
    cluster.kill(1);
    assert_eq!(cluster.get(2, "after"), "works");
}

#[test]
fn a_joiner_gets_a_state_of_20_mib_while_the_others_serve() {
    let mut cluster = Cluster::provisioned();
    let large = |key: usize| char::from(b'a' + key as u8).to_string().repeat(LARGE_BYTES);
    for key in 0..LARGE_KEYS {
        let request = put(&format!("large/{key}"), &large(key), CALL);
        let answer = ask(&cluster.socket(key % 3), &request, CALL);
        assert!(matches!(answer, Ok(Answer::Written { version: 1 })), "{answer:?}");
    }
    cluster.kill(2);
    cluster.wipe(2);
    cluster.start(2);
    let (mut writes, began) = (0, Instant::now());
    loop {
        cluster.put(0, "meanwhile", &writes.to_string());
        writes += 1;
        let votes = |status: &Value| status["state"] == "member" && status["is_healthy"] == true;
        if cluster.status(2).is_some_and(|status| votes(&status)) {
            break;
        }
        assert!(began.elapsed() < PATIENCE, "it joins");
    }
    crate::place::say(&format!("20 MiB joined after {:?}, with {writes} writes", began.elapsed()));
    let status = cluster.status(2).unwrap();
    assert!(status["group"]["state_bytes"].as_u64() > Some(20 << 20), "{status:#}");
    // With node 0 dead, reads need the copy of the node that joined.
    cluster.kill(0);
    for key in [0, LARGE_KEYS - 1] {
        let answer = ask(&cluster.socket(2), &get(&format!("large/{key}"), CALL), CALL);
        let Ok(Answer::Key { key: Some(found) }) = answer else { panic!("{answer:?}") };
        assert!(found.value == Some(large(key)), "large/{key} is whole");
    }
}

#[test]
fn a_second_node_with_a_name_that_is_taken_is_refused_and_changes_nothing() {
    let cluster = Cluster::provisioned();
    let before = cluster.status(0).unwrap()["nodes"].clone();
    let mut arguments = cluster.arguments(1);
    arguments[2] = "second".to_owned();
    arguments[6] = free_address();
    let second = cluster.start_with(&arguments);
    let ask = || cluster.place.run(&["cluster", "status", "--data-dir", "second", "--json"]);
    let is_refused = || {
        let status: Value = serde_json::from_slice(&ask().stdout).ok()?;
        assert_eq!(status["serves"], false);
        let text = status.to_string();
        text.contains("another node called b, with another data directory").then_some(())
    };
    until("the second one says why", is_refused);
    assert_eq!(cluster.put(1, "key", "1"), 1);
    second.kill();
    cluster.all_healthy();
    let addresses = |nodes: &Value| -> Vec<(Value, Value)> {
        let nodes = nodes.as_array().unwrap().iter();
        nodes.map(|node| (node["storage"].clone(), node["address"].clone())).collect()
    };
    let after = cluster.status(0).unwrap()["nodes"].clone();
    assert_eq!(addresses(&after), addresses(&before));
}

#[test]
fn garbage_on_the_socket_of_a_node_harms_no_other_client() {
    use std::io::{Read as _, Write as _};
    let cluster = Cluster::provisioned();
    let socket = cluster.socket(0);
    let long = vec![b'x'; 2 << 20];
    let lines: [&[u8]; 7] = [
        b"",
        b"\n",
        b"\0\xff\xfe\n",
        b"{\"cluster\":\"get\"}\n",
        b"{\"cluster\":\"nothing\"}\n",
        b"[[[[[[[[[[[[[[[[[[[[\n",
        &long,
    ];
    for line in lines {
        let mut stream = std::os::unix::net::UnixStream::connect(&socket).unwrap();
        stream.set_read_timeout(Some(CALL)).unwrap();
        let _ = stream.write_all(line);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let text = String::from_utf8(answer).unwrap();
        assert!(text.is_empty() || text.contains("\"error\""), "{text}");
    }
    // Clients that send nothing keep their places, but not all of them.
    let idle: Vec<_> =
        (0..40).map(|_| std::os::unix::net::UnixStream::connect(&socket).unwrap()).collect();
    assert_eq!(cluster.put(0, "key", "1"), 1);
    drop(idle);
}
