//! `forebay top` in a terminal: what it shows, how it ends, and that the terminal is restored.

use std::{
    fs::{File, OpenOptions},
    io::{Read, Write},
    os::{fd::OwnedFd, unix::process::ExitStatusExt},
    process::{Child, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use rustix::{
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{LocalModes, Termios, Winsize, tcgetattr, tcsetwinsize},
};

use super::exec;
use crate::place::{Place, until};

/// Longer than anything here takes on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(60);

/// `forebay top` in its own terminal; killed when dropped.
struct Top {
    child: Child,
    master: File,
    /// The other end, held open so that the terminal survives the process.
    terminal: File,
    drawn: Arc<Mutex<Vec<u8>>>,
}

impl Top {
    fn start(place: &Place) -> Self {
        let (master, terminal) = pseudo_terminal();
        let child = start(place, &terminal);
        let drawn = Arc::new(Mutex::new(Vec::new()));
        let (mut reader, output) = (master.try_clone().unwrap(), Arc::clone(&drawn));
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(len @ 1..) = reader.read(&mut bytes) {
                output.lock().unwrap().extend_from_slice(&bytes[..len]);
            }
        });
        Self { child, master, terminal, drawn }
    }

    /// Waits until the screen contains this.
    #[track_caller]
    fn shows(&self, text: &str) {
        until(text, || screen(&self.drawn.lock().unwrap()).contains(text));
    }

    fn press(&mut self, keys: &[u8]) {
        self.master.write_all(keys).unwrap();
    }

    fn signal(&self, name: &str) {
        let (name, id) = (format!("-{name}"), self.child.id().to_string());
        let mut kill = std::process::Command::new("kill");
        assert!(kill.args([name, id]).status().unwrap().success());
    }

    fn modes(&self) -> Termios {
        tcgetattr(&self.terminal).unwrap()
    }

    /// Waits for the end: returns the exit code, or the negated signal. The terminal must be
    /// restored.
    #[track_caller]
    fn ends(mut self) -> i32 {
        let code = ended(&mut self.child);
        let cooked = LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG;
        assert!(self.modes().local_modes.contains(cooked), "{:?}", self.modes());
        // The cursor is shown, and the alternate screen left.
        until("the cursor is back", || contains(&self.drawn.lock().unwrap(), b"\x1b[?25h"));
        until("the screen is back", || contains(&self.drawn.lock().unwrap(), b"\x1b[?1049l"));
        code
    }
}

impl Drop for Top {
    fn drop(&mut self) {
        // Usually it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The user's end of the terminal, and the one that programs use.
fn pseudo_terminal() -> (File, File) {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let master: OwnedFd = openpt(flags).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let name = ptsname(&master, Vec::new()).unwrap();
    let terminal = OpenOptions::new().read(true).write(true).open(name.to_str().unwrap()).unwrap();
    set_size(&terminal, 80, 24);
    (master.into(), terminal)
}

fn start(place: &Place, terminal: &File) -> Child {
    let end = || Stdio::from(terminal.try_clone().unwrap());
    let mut command = place.command(&["top", "--data-dir", "data"]);
    command.stdin(end()).stdout(end()).stderr(end()).spawn().unwrap()
}

/// Waits for the end: returns the exit code, or the negated signal.
#[track_caller]
fn ended(child: &mut Child) -> i32 {
    let begun = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if begun.elapsed() > TIMEOUT {
            child.kill().unwrap();
            panic!("it does not end");
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    status.code().or(status.signal().map(|signal| -signal)).unwrap()
}

fn set_size(terminal: &File, columns: u16, lines: u16) {
    let size = Winsize { ws_row: lines, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(terminal, size).unwrap();
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

/// The contents of the screen after all output: lines, and sequences that place the cursor or clear
/// the screen. Colours are ignored.
fn screen(drawn: &[u8]) -> String {
    let text = String::from_utf8_lossy(drawn);
    let mut rest = text.chars().peekable();
    let mut lines = vec![vec![' '; 300]; 100];
    let (mut line, mut column) = (0, 0);
    while let Some(c) = rest.next() {
        if c == '\x1b' && rest.next_if_eq(&'[').is_some() {
            let mut numbers = String::new();
            let last = loop {
                match rest.next() {
                    Some(c) if c.is_ascii_alphabetic() => break c,
                    Some(c) => numbers.push(c),
                    None => break ' ',
                }
            };
            match (last, numbers.split_once(';')) {
                ('H', Some((down, right))) => {
                    let number = |text: &str| text.parse::<usize>().unwrap() - 1;
                    (line, column) = (number(down), number(right));
                }
                ('J', _) => lines.iter_mut().for_each(|line| line.fill(' ')),
                _ => {}
            }
        } else if let Some(cell) = lines[line].get_mut(column)
            && !c.is_control()
        {
            *cell = c;
            column += 1;
        }
    }
    let lines = lines.into_iter().map(|line| line.into_iter().collect::<String>());
    lines.map(|line| line.trim_end().to_owned() + "\n").collect()
}

fn items(place: &Place) {
    let scope = |n: u32| if n <= 9 { "acme" } else { "other" };
    let item = |n| format!("{{\"args\":[\"{n}\"],\"scope\":\"{}\"}}\n", scope(n));
    place.write("items", (1..=15).map(item).collect::<String>());
}

const WAITS_FOR_GO: &[&str] =
    &["--", "sh", "-c", "while ! test -e go; do sleep 0.02; done", "_", "{}"];

#[test]
fn it_shows_a_run_and_what_blocks_it_until_q_is_pressed() {
    let place = Place::new();
    items(&place);
    place.run(&["rules", "pause", "other", "--data-dir", "data"]).expect(0, &[]);
    let rest = ["--ndjson", "-i", "items", "--jobs", "12", "--rule", "acme=3"];
    let running = place.start(&exec(&[&rest[..], WAITS_FOR_GO].concat()));
    until("three run", || {
        place.path("data/control.sock").exists() && {
            let entries = ["entries", "--stage", "running", "--count", "--data-dir", "data"];
            place.run(&entries).text() == "3\n"
        }
    });
    let mut top = Top::start(&place);
    let process = format!("(process {}): 3 of 12 running, 12 waiting", running.id());
    top.shows(&process);
    top.shows("sh -c 'while");
    top.shows("acme is full: 3 of 3");
    top.shows("paused by other");
    // It follows changes, at another size too.
    set_size(&top.terminal, 200, 50);
    top.signal("WINCH");
    top.shows("RUNS NOW OR NEXT");
    place.run(&["rules", "resume", "other", "--data-dir", "data"]).expect(0, &[]);
    place.write("go", "");
    running.end().expect(0, &["15 succeeded"]);
    top.shows("no process has the data directory open");
    let raw = top.modes().local_modes;
    assert!(!raw.contains(LocalModes::ICANON), "keys are read one by one");
    top.press(b"q");
    assert_eq!(top.ends(), 0);
}

#[test]
fn without_a_process_it_shows_the_stored_state() {
    let place = Place::new();
    items(&place);
    place.run(&["rules", "pause", "*", "--data-dir", "data"]).expect(0, &[]);
    let rest = ["--ndjson", "-i", "items", "--jobs", "12"];
    let running = place.start(&exec(&[&rest[..], WAITS_FOR_GO].concat()));
    until("all are stored", || {
        place.path("data/control.sock").exists() && {
            let entries = ["entries", "--stage", "inbox", "--count", "--data-dir", "data"];
            place.run(&entries).text() == "15\n"
        }
    });
    running.kill();
    let mut top = Top::start(&place);
    top.shows("no process has the data directory open, so nothing runs; stored: 15 waiting");
    top.shows("sh -c 'while");
    // It does not lock the directory, and follows a process that starts.
    let running = place.start(&exec(&[&rest[..], WAITS_FOR_GO].concat()));
    top.shows("0 of 12 running");
    running.kill();
    top.press(b"\x03");
    assert_eq!(top.ends(), 0, "Ctrl-C");
}

#[test]
fn a_signal_restores_the_terminal_too() {
    let place = Place::new();
    place.run(&["rules", "pause", "acme", "--data-dir", "data"]).expect(0, &[]);
    for (name, number) in [("TERM", 15), ("HUP", 1)] {
        let top = Top::start(&place);
        top.shows("no process has the data directory open");
        top.signal(name);
        assert_eq!(top.ends(), -number, "{name}");
    }
}

/// Regression: it aborted, because nothing could be printed.
#[test]
fn it_ends_when_its_terminal_closes() {
    let place = Place::new();
    place.run(&["rules", "pause", "acme", "--data-dir", "data"]).expect(0, &[]);
    let (mut master, terminal) = pseudo_terminal();
    let mut child = start(&place, &terminal);
    drop(terminal);
    let mut drawn = Vec::new();
    while !screen(&drawn).contains("no process has the data directory open") {
        let mut bytes = [0; 4096];
        let len = master.read(&mut bytes).unwrap();
        drawn.extend_from_slice(&bytes[..len]);
    }
    drop(master);
    assert_eq!(ended(&mut child), 2);
}

#[test]
fn without_a_terminal_or_a_directory_it_says_what_to_do() {
    let place = Place::new();
    place.run(&["top", "--data-dir", "data"]).expect_refused(&["needs a terminal", "status"]);
    let refused = place.run(&["top", "--json", "--data-dir", "data"]);
    refused.expect_refused(&["no JSON", "forebay status --json"]);
    let top = Top::start(&place);
    top.shows("error: there is no data directory at data");
}
