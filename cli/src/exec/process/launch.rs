//! Starting a command without copying this process: as with `vfork`, the child shares the memory of
//! this process, which is suspended until the child has become the command.
//!
//! A fork copies the page tables, both sides fault on every page that they write afterwards, and a
//! socket has to report the result of the exec; the C library's `posix_spawn` avoids this in the
//! same way, but cannot set a parent-death signal. The program is looked up in `PATH` once and
//! remembered, as shells do.
//!
//! Must always hold: between clone and exec the child only makes system calls; it allocates
//! nothing, takes no lock and writes no memory but its own stack and its [`Plan`]. Must not know:
//! what happens to a started command.

use std::{
    env,
    ffi::{CStr, CString, OsString, c_char, c_int, c_void},
    fs::File,
    io::{
        self,
        ErrorKind::{NotFound, PermissionDenied},
    },
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
        unix::ffi::{OsStrExt, OsStringExt},
    },
    ptr::{null, null_mut},
};

use bytes::Bytes;
use rustix::{
    pipe::{PipeFlags, pipe_with},
    process::Pid,
};

use super::link::Start;

/// Stack of a child until it is the command: its calls need a few KiB.
const STACK_BYTES: usize = 64 * 1024;
/// Alignment of a stack.
const STACK_ALIGN: usize = 16;
/// Runs scripts without an interpreter line, as `execvp` does.
const SHELL: &CStr = c"/bin/sh";
/// Directories that `execvp` searches without a `PATH`.
const PATH_WITHOUT_PATH: &[u8] = b"/bin:/usr/bin";

/// Shared by all commands of a spawner.
#[derive(Debug)]
pub(super) struct Launcher {
    /// The spawner; if it is no longer the parent, it is dead.
    parent: libc::pid_t,
    /// The limit of open files for commands, if this process has another one.
    open_files: Option<libc::rlimit>,
    /// Their standard input: `/dev/null`.
    nothing: File,
    environment: Vec<CString>,
    path: Vec<Bytes>,
    /// The program that was started last, and its path.
    found: Option<(Bytes, CString)>,
    stack: Vec<u8>,
}

/// A started command.
#[derive(Debug)]
pub(super) struct Launched {
    pub(super) pid: Pid,
    /// Readable when the command has ended.
    pub(super) handle: OwnedFd,
    pub(super) stdout: OwnedFd,
    pub(super) stderr: OwnedFd,
}

/// Instructions for a child until it is the command: pointers that are valid while this process is
/// suspended.
struct Plan {
    parent: libc::pid_t,
    open_files: *const libc::rlimit,
    /// Standard input, output and error.
    streams: [RawFd; 3],
    /// Null: the directory of this process.
    directory: *const c_char,
    /// Possible paths of the program; the last one is null.
    candidates: *const *const c_char,
    arguments: *const *const c_char,
    /// The same for a shell: its second element is for the candidate.
    script_arguments: *mut *const c_char,
    environment: *const *const c_char,
    /// The candidate being tried.
    candidate: usize,
    /// The error, when the child has ended without becoming the command.
    error: c_int,
}

impl Launcher {
    /// For commands that are started by the calling thread: they die when it does.
    ///
    /// # Errors
    /// When `/dev/null` cannot be opened.
    pub(super) fn new(open_files: Option<libc::rlimit>) -> io::Result<Self> {
        let variable = |(name, value): (OsString, OsString)| {
            let mut bytes = name.into_vec();
            bytes.push(b'=');
            bytes.extend_from_slice(value.as_bytes());
            CString::new(bytes).ok()
        };
        let search = env::var_os("PATH").map_or(PATH_WITHOUT_PATH.to_vec(), OsStringExt::into_vec);
        let fits = |dir: &&[u8]| dir.len() < libc::PATH_MAX as usize;
        let path = search.split(|byte| *byte == b':').filter(fits).map(Bytes::copy_from_slice);
        Ok(Self {
            parent: rustix::process::getpid().as_raw_nonzero().get(),
            open_files,
            nothing: File::open("/dev/null")?,
            environment: env::vars_os().filter_map(variable).collect(),
            path: path.collect(),
            found: None,
            stack: vec![0; STACK_BYTES],
        })
    }

    /// Starts a command; returns when it is that command, or has failed.
    ///
    /// # Errors
    /// Errors of its program or directory, and shortages of this process.
    pub(super) fn launch(&mut self, start: &Start) -> io::Result<Launched> {
        let program = start.argv.first().ok_or(io::ErrorKind::InvalidInput)?;
        if let Some((name, place)) = self.found.take().filter(|(name, _)| name == program) {
            match self.launch_from(start, std::slice::from_ref(&place)) {
                // The remembered program is probably gone.
                Err(error) if matches!(error.kind(), NotFound | PermissionDenied) => {}
                launched => {
                    self.found = Some((name, place));
                    return Ok(launched?.0);
                }
            }
        }
        let mut candidates = self.candidates(program)?;
        let (launched, candidate) = self.launch_from(start, &candidates)?;
        if self.is_same_everywhere(program) {
            self.found = Some((program.clone(), candidates.swap_remove(candidate)));
        }
        Ok(launched)
    }

    /// Possible paths of a program, in the order of the search.
    fn candidates(&self, program: &[u8]) -> io::Result<Vec<CString>> {
        if program.is_empty() {
            return Err(NotFound.into());
        }
        if program.contains(&b'/') {
            return Ok(vec![CString::new(program)?]);
        }
        let in_dir = |dir: &Bytes| match &dir[..] {
            b"" => CString::new(program),
            dir => CString::new([dir, b"/", program].concat()),
        };
        Ok(self.path.iter().map(in_dir).collect::<Result<_, _>>()?)
    }

    /// Whether a program's search is independent of the command's directory.
    fn is_same_everywhere(&self, program: &[u8]) -> bool {
        !program.contains(&b'/') && self.path.iter().all(|dir| dir.first() == Some(&b'/'))
    }

    /// Starts a command; returns the index of its candidate.
    fn launch_from(
        &mut self,
        start: &Start,
        candidates: &[CString],
    ) -> io::Result<(Launched, usize)> {
        let owned = |texts: &[Bytes]| -> io::Result<Vec<CString>> {
            Ok(texts.iter().map(|text| CString::new(&text[..])).collect::<Result<_, _>>()?)
        };
        let (arguments, own) = (owned(&start.argv)?, owned(&start.environment)?);
        let directory = CString::new(&start.directory[..])?;
        let is_own = |name: &[u8]| own.iter().any(|variable| name_of(variable) == name);
        let inherited = self.environment.iter().filter(|variable| !is_own(name_of(variable)));
        let environment = pointers(inherited.chain(&own));
        let candidates = pointers(candidates);
        let mut script_arguments = vec![SHELL.as_ptr(), null()];
        script_arguments.extend(pointers(arguments.iter().skip(1)));
        let arguments = pointers(&arguments);
        let (stdout, child_stdout) = pipe_with(PipeFlags::CLOEXEC)?;
        let (stderr, child_stderr) = pipe_with(PipeFlags::CLOEXEC)?;
        let mut plan = Plan {
            parent: self.parent,
            open_files: self.open_files.as_ref().map_or(null(), |limit| limit),
            streams: [self.nothing.as_raw_fd(), child_stdout.as_raw_fd(), child_stderr.as_raw_fd()],
            directory: if directory.is_empty() { null() } else { directory.as_ptr() },
            candidates: candidates.as_ptr(),
            arguments: arguments.as_ptr(),
            script_arguments: script_arguments.as_mut_ptr(),
            environment: environment.as_ptr(),
            candidate: 0,
            error: 0,
        };
        let (pid, handle) = clone(&mut plan, &mut self.stack)?;
        if plan.error != 0 {
            // It is gone already; nothing else waits for it.
            let _ = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty());
            return Err(io::Error::from_raw_os_error(plan.error));
        }
        Ok((Launched { pid, handle, stdout, stderr }, plan.candidate))
    }
}

fn name_of(variable: &CString) -> &[u8] {
    variable.as_bytes().split(|byte| *byte == b'=').next().unwrap_or_default()
}

/// Pointers to texts, followed by a null pointer.
fn pointers<'a>(texts: impl IntoIterator<Item = &'a CString>) -> Vec<*const c_char> {
    texts.into_iter().map(|text| text.as_ptr()).chain([null()]).collect()
}

/// Makes a child that follows the plan; returns when it has become the command or is gone.
#[expect(unsafe_code, reason = "the standard library has no vfork that sets a death signal")]
fn clone(plan: &mut Plan, stack: &mut [u8]) -> io::Result<(Pid, OwnedFd)> {
    let top = stack.as_mut_ptr_range().end;
    let top = top.wrapping_sub(top.addr() % STACK_ALIGN).cast::<c_void>();
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD | libc::SIGCHLD;
    let mut handle: c_int = -1;
    // SAFETY: the stack is as large as its slice, not used by anything else, and grows down from
    // its aligned end. CLONE_VFORK suspends this thread until the child has other memory or is
    // gone, so `plan` and everything that it points to are valid, and used only by the child, until
    // then. Signals are blocked meanwhile, so no handler runs on the child's stack; the child
    // unblocks them where a handler cannot be left.
    let (pid, error) = unsafe {
        let (mut all, mut before) = (std::mem::zeroed(), std::mem::zeroed());
        libc::sigfillset(&mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &all, &mut before);
        let plan: *mut Plan = plan;
        let pid = libc::clone(become_command, top, flags, plan.cast(), &mut handle as *mut c_int);
        let error = io::Error::last_os_error();
        libc::pthread_sigmask(libc::SIG_SETMASK, &before, null_mut());
        (pid, error)
    };
    if pid < 0 {
        return Err(error);
    }
    let pid = Pid::from_raw(pid).expect("a child has a number");
    // SAFETY: with CLONE_PIDFD the kernel has stored a new descriptor there.
    Ok((pid, unsafe { OwnedFd::from_raw_fd(handle) }))
}

/// The code of a child. It returns only if it cannot become the command; the child ends then.
#[expect(unsafe_code, reason = "system calls on pointers that its parent has prepared")]
extern "C" fn become_command(plan: *mut c_void) -> c_int {
    // SAFETY: `clone` above passes a plan that is valid until this process has other memory or is
    // gone, and that nothing else uses until then. All functions are async-signal-safe.
    unsafe {
        let plan = &mut *plan.cast::<Plan>();
        plan.error = match prepare(plan) {
            Ok(()) => execute(plan),
            Err(error) => error,
        };
    }
    // glibc's clone makes it the exit code.
    1
}

#[expect(unsafe_code, reason = "see `become_command`")]
unsafe fn prepare(plan: &Plan) -> Result<(), c_int> {
    // SAFETY: system calls on values, and on pointers of the plan.
    unsafe {
        let check = |done: c_int| if done < 0 { Err(errno()) } else { Ok(()) };
        for (stream, to) in plan.streams.into_iter().zip(0..) {
            check(libc::dup2(stream, to))?;
        }
        check(libc::setsid())?;
        if !plan.open_files.is_null() {
            check(libc::setrlimit(libc::RLIMIT_NOFILE, plan.open_files))?;
        }
        check(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL))?;
        // The parent may have died before the signal was set.
        if libc::getppid() != plan.parent {
            return Err(libc::ESRCH);
        }
        if !plan.directory.is_null() {
            check(libc::chdir(plan.directory))?;
        }
        // Rust programs ignore it; commands expect the default.
        if libc::signal(libc::SIGPIPE, libc::SIG_DFL) == libc::SIG_ERR {
            return Err(errno());
        }
        let mut none = std::mem::zeroed();
        libc::sigemptyset(&mut none);
        check(libc::sigprocmask(libc::SIG_SETMASK, &none, null_mut()))
    }
}

/// As `execvp` does. Returns the error when nothing could be executed.
#[expect(unsafe_code, reason = "see `become_command`")]
unsafe fn execute(plan: &mut Plan) -> c_int {
    let (mut is_denied, mut error) = (false, libc::ENOENT);
    // SAFETY: the lists end with null pointers, and the script's has two elements before its
    // arguments.
    unsafe {
        loop {
            let path = *plan.candidates.add(plan.candidate);
            if path.is_null() {
                return if is_denied { libc::EACCES } else { error };
            }
            libc::execve(path, plan.arguments, plan.environment);
            error = errno();
            if error == libc::ENOEXEC {
                *plan.script_arguments.add(1) = path;
                libc::execve(SHELL.as_ptr(), plan.script_arguments, plan.environment);
                error = errno();
            }
            match error {
                libc::EACCES => is_denied = true,
                libc::ENOENT | libc::ENOTDIR | libc::ESTALE | libc::ENODEV | libc::ETIMEDOUT => {}
                _ => return error,
            }
            plan.candidate += 1;
        }
    }
}

#[expect(unsafe_code, reason = "the C library's error number of the calling thread")]
fn errno() -> c_int {
    // SAFETY: it always points to a number. (io::Error::last_os_error does the same, but
    // promises no async-signal-safety.)
    unsafe { *libc::__errno_location() }
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Read, os::unix::fs::PermissionsExt, path::Path};

    use super::*;

    fn start(argv: &[&str], directory: &Path) -> Start {
        let argv = argv.iter().map(|arg| Bytes::copy_from_slice(arg.as_bytes())).collect();
        let directory = Bytes::copy_from_slice(directory.as_os_str().as_bytes());
        Start { argv, directory, ..Start::default() }
    }

    fn output(launcher: &mut Launcher, start: &Start) -> String {
        let launched = launcher.launch(start).unwrap();
        let mut text = String::new();
        File::from(launched.stdout).read_to_string(&mut text).unwrap();
        rustix::process::waitpid(Some(launched.pid), rustix::process::WaitOptions::empty())
            .unwrap();
        text
    }

    fn script(path: &Path, text: &str) {
        // Written by another process: one that is forked meanwhile would keep the file open.
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let written = std::process::Command::new("sh")
            .args(["-c", "printf '%s' \"$1\" > \"$2\"", "_", text])
            .arg(path)
            .status();
        assert!(written.unwrap().success());
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    #[test]
    fn programs_are_found_as_execvp_finds_them() {
        let dir = tempfile::tempdir().unwrap();
        let place = |name: &str| dir.path().join(name);
        let mut launcher = Launcher::new(None).unwrap();
        let bytes = |name| Bytes::copy_from_slice(place(name).as_os_str().as_bytes());
        launcher.path = ["none", "denied", "a", "b"].map(bytes).to_vec();
        script(&place("a/tool"), "#!/bin/sh\necho a $1");
        script(&place("b/tool"), "echo b $1");
        script(&place("denied/tool"), "echo no");
        fs::set_permissions(place("denied/tool"), fs::Permissions::from_mode(0o644)).unwrap();
        let tool = start(&["tool", "x y"], dir.path());
        assert_eq!(output(&mut launcher, &tool), "a x y\n");
        assert!(launcher.found.is_some(), "it is remembered");
        assert_eq!(output(&mut launcher, &tool), "a x y\n");
        fs::remove_file(place("a/tool")).unwrap();
        // A script without an interpreter line.
        assert_eq!(output(&mut launcher, &tool), "b x y\n", "a missing program is searched again");
        fs::remove_file(place("b/tool")).unwrap();
        let error = launcher.launch(&tool).unwrap_err();
        assert_eq!(error.kind(), PermissionDenied, "one was in the way");
        fs::remove_file(place("denied/tool")).unwrap();
        assert_eq!(launcher.launch(&tool).unwrap_err().kind(), NotFound);
    }

    /// If `PATH` has relative directories, the program found depends on the command's directory.
    #[test]
    fn a_program_in_a_relative_directory_is_searched_each_time() {
        let dir = tempfile::tempdir().unwrap();
        let mut launcher = Launcher::new(None).unwrap();
        launcher.path = vec![Bytes::from_static(b"bin"), Bytes::new()];
        for name in ["a", "b"] {
            script(&dir.path().join(name).join("bin/tool"), &format!("echo {name}"));
        }
        script(&dir.path().join("c/tool"), "echo c");
        for name in ["a", "b", "c", "a"] {
            let tool = start(&["tool"], &dir.path().join(name));
            assert_eq!(output(&mut launcher, &tool), format!("{name}\n"));
        }
    }

    #[test]
    fn a_variable_of_the_command_hides_the_one_of_this_process() {
        let dir = tempfile::tempdir().unwrap();
        let mut launcher = Launcher::new(None).unwrap();
        launcher.environment = vec![c"A=1".to_owned(), c"AB=2".to_owned()];
        let mut env = start(&["/usr/bin/env"], dir.path());
        env.environment = vec![Bytes::from_static(b"A=x=y")];
        assert_eq!(output(&mut launcher, &env), "AB=2\nA=x=y\n");
    }
}
