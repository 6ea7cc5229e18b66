//! Inspecting a data directory whose disk is full or read-only, and access to the control socket.
//! Preloaded libraries make the real binary's writes fail as on such a disk, and check the socket.

use std::{collections::BTreeMap, path::PathBuf, process::Command};

use serde_json::Value;

use super::exec;
use crate::place::{Done, Place};

const FULL: &str = "28";
const READ_ONLY: &str = "30";

struct Unwritable {
    place: Place,
    library: String,
}

/// A library compiled from a source file in this directory.
fn compiled(place: &Place, name: &str) -> String {
    let library = place.path(&format!("{name}.so")).to_str().unwrap().to_owned();
    let source = crate::root().join(format!("tests/process/{name}.c")).display().to_string();
    let arguments = ["-shared", "-fPIC", "-O1", "-o", &library, &source];
    assert!(place.system("cc", &arguments), "cc compiles {source}");
    library
}

impl Unwritable {
    fn new() -> Self {
        let place = Place::new();
        let library = compiled(&place, "unwritable_shim");
        std::fs::create_dir(place.path("tmp")).unwrap();
        Self { place, library }
    }

    fn shim(&self, command: &mut Command, errno: &str) {
        let below = std::fs::canonicalize(self.place.path("data")).unwrap();
        command.env("LD_PRELOAD", &self.library);
        command.env("FOREBAY_SHIM_BELOW", below).env("FOREBAY_SHIM_ERRNO", errno);
        command.env("TMPDIR", self.place.path("tmp"));
    }

    fn run(&self, words: &[&str], errno: &str) -> Done {
        let mut command = self.place.command(&[words, &["--data-dir", "data"]].concat());
        self.shim(&mut command, errno);
        self.place.start_command(command).end()
    }

    /// Length and modification time of every file of the data directory.
    fn files(&self) -> BTreeMap<PathBuf, (u64, std::time::SystemTime)> {
        let (mut dirs, mut files) = (vec![self.place.path("data")], BTreeMap::new());
        while let Some(dir) = dirs.pop() {
            for entry in std::fs::read_dir(dir).unwrap() {
                let entry = entry.unwrap();
                let found = entry.metadata().unwrap();
                if found.is_dir() {
                    dirs.push(entry.path());
                } else {
                    files.insert(entry.path(), (found.len(), found.modified().unwrap()));
                }
            }
        }
        files
    }
}

/// Checks that the shim works; otherwise the test below tests nothing.
#[test]
fn the_library_refuses_to_write_below_a_directory() {
    let unwritable = Unwritable::new();
    std::fs::create_dir(unwritable.place.path("data")).unwrap();
    for (errno, reason) in [(FULL, "No space left"), (READ_ONLY, "Read-only file system")] {
        let mut shell = Command::new("sh");
        let file = std::fs::canonicalize(unwritable.place.path("data")).unwrap().join("file");
        shell.args(["-c", "echo 1 > \"$1\"", "_", file.to_str().unwrap()]);
        unwritable.shim(&mut shell, errno);
        let done = shell.output().unwrap();
        let stderr = String::from_utf8_lossy(&done.stderr);
        assert!(!done.status.success() && stderr.contains(reason), "{stderr}");
    }
}

/// Regression: `status` and other read-only commands refused to work where nothing can be written.
#[test]
fn an_unwritable_directory_can_be_inspected() {
    let unwritable = Unwritable::new();
    let place = &unwritable.place;
    place.write("items", "1\n2\n3\n");
    let arguments = ["--input", "items", "--retries", "1", "--scope", "t", "--rule", "t=2", "--"];
    let command = ["sh", "-c", "test $1 != 2", "_", "{}"];
    place.run(&exec(&[&arguments[..], &command].concat())).expect(1, &[]);
    let normally = place.json(&["entries", "--data-dir", "data"]);
    let failed = place.json(&["entries", "--outcome", "dead-letter", "--data-dir", "data"]);
    let id = failed[0]["id"].as_str().unwrap();
    let before = unwritable.files();
    for errno in [FULL, READ_ONLY] {
        let entries = unwritable.run(&["entries", "--json"], errno).expect(0, &[]);
        let entries: Value = serde_json::from_slice(&entries.stdout).unwrap();
        assert_eq!(entries, normally);
        let status = unwritable.run(&["status"], errno).expect(0, &[]).text();
        assert!(status.contains("no process has the data directory open"), "{status}");
        let entry = unwritable.run(&["entry", id], errno).expect(0, &[]).text();
        assert!(entry.contains("attempt 1 at"), "{entry}");
        let reads: [&[&str]; 7] = [
            &["queues", "--all"],
            &["explain", id],
            &["limits"],
            &["rules", "list"],
            &["partitions"],
            &["alias"],
            &["purge", id, "--dry-run"],
        ];
        for read in reads {
            unwritable.run(read, errno).expect(0, &[]);
        }
        // Commands that change something say why they cannot.
        let refused = unwritable.run(&["purge", id], errno).expect(2, &[]);
        let why = ["no space is left", "may not be written", "cannot write"];
        assert!(why.iter().any(|why| refused.stderr.contains(why)), "{}", refused.stderr);
        let left = std::fs::read_dir(place.path("tmp")).unwrap().count();
        assert_eq!(left, 0, "copies are removed");
    }
    let changed = unwritable.files();
    let is_row = |path: &&PathBuf| path.extension().is_some_and(|extension| extension == "sst");
    assert!(before.keys().filter(is_row).eq(changed.keys().filter(is_row)));
    assert_eq!(place.json(&["entries", "--data-dir", "data"]), normally);
}

/// Regression: between the creation of the control socket and its change of mode, any user could
/// connect if the umask allowed it. A connection persists.
#[test]
fn the_control_socket_is_never_open_to_others() {
    let place = Place::new();
    let library = compiled(&place, "bind_shim");
    std::fs::create_dir(place.path("data")).unwrap();
    place.write("items", "1\n");
    let run = format!(
        "umask 0; chmod 777 data; exec {} exec --data-dir data --input items -- true",
        env!("CARGO_BIN_EXE_forebay")
    );
    let mut command = Command::new("sh");
    command.args(["-c", &run]).current_dir(place.path(""));
    command.env("LD_PRELOAD", library).env("FOREBAY_SHIM_MODES", place.path("modes"));
    place.start_command(command).end().expect(0, &["1 succeeded"]);
    let modes = place.lines("modes");
    assert!(!modes.is_empty(), "a socket was bound");
    for line in modes {
        let modes: Vec<u32> =
            line.split(' ').map(|mode| u32::from_str_radix(mode, 8).unwrap()).collect();
        let others = 0o077;
        assert!(modes.iter().any(|mode| mode & others == 0), "open to others: {line}");
    }
    assert!(!place.path("data/control.new").exists());
}
