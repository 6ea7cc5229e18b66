//! A temporary directory in which the real `forebay` binary is run.
//!
//! Owns: starting and ending the processes of the tests of `crash` and `process`. Must always hold:
//! no process outlives its test (a `Running` is killed when dropped), and no wait is unlimited.
//! Must not know: what is tested.

use std::{
    fs::{self, File},
    io::{Read, Write},
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;

/// Longer than anything here takes on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(120);
/// Number of output lines shown of a process that does not end.
const SHOWN_LINES_MAX: usize = 5;
/// Interval between checks of a condition.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// A separate directory for one test.
pub(crate) struct Place {
    dir: tempfile::TempDir,
}

/// The result of a finished process.
#[derive(Debug)]
pub(crate) struct Done {
    /// The exit code; if a signal ended it, the negated signal number.
    pub(crate) code: i32,
    /// Standard output.
    pub(crate) stdout: Vec<u8>,
    /// Standard error.
    pub(crate) stderr: String,
}

/// A process that runs; killed when dropped.
pub(crate) struct Running {
    child: Child,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Place {
    /// An empty directory.
    pub(crate) fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    /// A path in it.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a file in it.
    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        fs::write(self.path(name), content).unwrap();
    }

    /// Lines of a file in it; empty if missing.
    pub(crate) fn lines(&self, name: &str) -> Vec<String> {
        let bytes = fs::read(self.path(name)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).lines().map(str::to_owned).collect()
    }

    /// The binary with these arguments, in this directory, without standard input.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_forebay"));
        command.args(arguments).current_dir(self.dir.path());
        command.env_remove("FOREBAY_DATA_DIR").stdin(Stdio::null());
        command
    }

    /// Runs it to its end.
    pub(crate) fn run(&self, arguments: &[&str]) -> Done {
        self.start(arguments).end()
    }

    /// Starts it. Its output goes to files: orphans would hold a pipe open.
    pub(crate) fn start(&self, arguments: &[&str]) -> Running {
        self.start_command(self.command(arguments))
    }

    /// Like [`Self::start`], with a modified command of [`Self::command`].
    pub(crate) fn start_command(&self, mut command: Command) -> Running {
        let outputs = tempfile::Builder::new().prefix("outputs-").tempdir_in(self.dir.path());
        let outputs = outputs.unwrap().keep();
        let (stdout, stderr) = (outputs.join("stdout"), outputs.join("stderr"));
        command.stdout(File::create(&stdout).unwrap()).stderr(File::create(&stderr).unwrap());
        Running { child: command.spawn().unwrap(), stdout, stderr }
    }

    /// Runs it with `input` as standard input.
    pub(crate) fn feed(&self, arguments: &[&str], input: &[u8]) -> Done {
        self.write("standard-input", input);
        let mut command = self.command(arguments);
        command.stdin(File::open(self.path("standard-input")).unwrap());
        self.start_command(command).end()
    }

    /// The output of a command with `--json`, which must succeed.
    #[track_caller]
    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        let arguments = [arguments, &["--json"]].concat();
        let done = self.run(&arguments);
        assert_eq!(done.code, 0, "{arguments:?}: {done:?}");
        serde_json::from_slice(&done.stdout).unwrap()
    }

    /// Runs a system tool; returns whether it succeeded.
    pub(crate) fn system(&self, program: &str, arguments: &[&str]) -> bool {
        let mut command = Command::new(program);
        let ran = command.args(arguments).current_dir(self.dir.path()).output();
        ran.is_ok_and(|output: Output| output.status.success())
    }
}

impl Running {
    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it is still running.
    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Sends it SIGINT.
    pub(crate) fn interrupt(&self) {
        self.signal("INT");
    }

    /// Sends it a signal, by its name without SIG.
    pub(crate) fn signal(&self, name: &str) {
        let (name, id) = (format!("-{name}"), self.id().to_string());
        assert!(Command::new("kill").args([&name, &id]).status().unwrap().success());
    }

    /// Kills it as kill -9 does, and waits until it is gone.
    pub(crate) fn kill(mut self) -> Done {
        self.child.kill().unwrap();
        self.end()
    }

    /// Waits until it has ended on its own.
    #[track_caller]
    pub(crate) fn end(mut self) -> Done {
        let begun = Instant::now();
        let status: ExitStatus = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            let waited = begun.elapsed();
            assert!(waited < TIMEOUT, "it does not end: {}", last_lines(&self.stderr()));
            std::thread::sleep(LOOK_EVERY);
        };
        let code = status.code().or(status.signal().map(|signal| -signal)).unwrap();
        Done { code, stdout: fs::read(&self.stdout).unwrap(), stderr: self.stderr() }
    }

    /// Its standard error so far.
    pub(crate) fn stderr(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.stderr).unwrap()).into_owned()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Usually it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Done {
    /// Standard output as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Fails unless it ended with this code and its standard error contains all of `expected`.
    #[track_caller]
    pub(crate) fn expect(self, code: i32, expected: &[&str]) -> Self {
        assert_eq!(self.code, code, "{self:?}");
        for text in expected {
            assert!(self.stderr.contains(text), "no `{text}` in: {}", self.stderr);
        }
        self
    }

    /// Like [`Self::expect`] with exit code 2 and a single line that begins with `error: `.
    #[track_caller]
    pub(crate) fn expect_refused(self, expected: &[&str]) -> Self {
        let done = self.expect(2, expected);
        assert!(done.stderr.starts_with("error: "), "{}", done.stderr);
        done
    }
}

/// The end of a long text.
fn last_lines(text: &str) -> String {
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(SHOWN_LINES_MAX)..].join("\n")
}

/// Waits until `condition` holds.
#[track_caller]
pub(crate) fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < TIMEOUT, "timed out: {what}");
        std::thread::sleep(LOOK_EVERY);
    }
}

/// Size of a file in bytes; 0 if missing.
pub(crate) fn len(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |metadata| metadata.len())
}

/// The JSON objects of a file with one per line, without a torn last line.
pub(crate) fn objects(path: &Path) -> Vec<Value> {
    let mut text = Vec::new();
    if let Ok(mut file) = File::open(path) {
        file.read_to_end(&mut text).unwrap();
    }
    let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let lines = text[..whole].split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    lines.map(|line| serde_json::from_slice(line).unwrap()).collect()
}

/// Prints information about a test's result to standard error: its seed, or why it checks less in
/// this environment.
pub(crate) fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
