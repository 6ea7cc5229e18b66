//! Tests with real processes. The test binary starts itself as the spawner, and as the process that
//! is killed.

use std::{
    env, fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use bytes::Bytes;
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use tempfile::TempDir;

use super::{Order, Spawner, SpawnerError, procfs, serve};
use crate::exec::report::{End, OUTPUT_KEPT_BYTES_MAX, Report};

const SPAWNER_DIR: &str = "FOREBAY_TEST_SPAWNER_DIR";
const DRIVER_DIR: &str = "FOREBAY_TEST_DRIVER_DIR";
const BUSY_DRIVER_DIR: &str = "FOREBAY_TEST_BUSY_DRIVER_DIR";
/// Longer than any of this takes on a slow machine.
const TIMEOUT: Duration = Duration::from_secs(30);

/// This binary, running only the named function of this module.
fn oneself(function: &str) -> Command {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", "--nocapture", "--test-threads=1"]);
    command.arg(format!("exec::process::tests::{function}"));
    command
}

/// Not a test: the spawner's process.
#[test]
fn be_the_spawner() {
    if let Some(dir) = env::var_os(SPAWNER_DIR) {
        let code = serve(Path::new(&dir));
        std::process::exit(i32::from(code != ExitCode::SUCCESS));
    }
}

async fn try_start(dir: &Path) -> Result<Spawner, SpawnerError> {
    let mut command = oneself("be_the_spawner");
    command.env(SPAWNER_DIR, dir).env_remove(DRIVER_DIR).env_remove(BUSY_DRIVER_DIR);
    Spawner::start_with(command, dir).await
}

async fn start() -> (Spawner, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    (try_start(dir.path()).await.unwrap(), dir)
}

fn job(argv: &[&[u8]]) -> Order {
    let argv = argv.iter().map(|arg| Bytes::copy_from_slice(arg)).collect();
    Order { argv, ..Order::default() }
}

fn shell(script: &str) -> Order {
    job(&[b"sh", b"-c", script.as_bytes()])
}

async fn run(spawner: &Spawner, order: &Order) -> Report {
    spawner.run(order.clone(), std::future::pending()).await.unwrap()
}

fn alive(pid: i32) -> bool {
    let state = procfs::stat(pid).map(|stat| stat.state);
    state.is_some_and(|state| state != b'Z')
        && test_kill_process(Pid::from_raw(pid).unwrap()).is_ok()
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + TIMEOUT;
    while !holds() {
        assert!(Instant::now() < deadline, "timed out: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The number that a command writes to a file.
async fn number_in(path: &Path) -> i32 {
    let read = || fs::read_to_string(path).ok().filter(|text| text.ends_with('\n'));
    until("a file with a number", || read().is_some()).await;
    read().unwrap().trim().parse().unwrap()
}

#[tokio::test]
async fn a_command_is_reported_with_code_and_outputs() {
    let (spawner, _dir) = start().await;
    let report = run(&spawner, &shell("echo out; echo err >&2; exit 3")).await;
    assert_eq!(report.end, Some(End::Exit(3)));
    assert_eq!((&report.stdout.head[..], &report.stderr.head[..]), (&b"out\n"[..], &b"err\n"[..]));
    assert!(!report.canceled && report.started_at <= report.ended_at && report.started_at.0 > 0);
    assert_eq!(run(&spawner, &shell("kill -USR1 $$")).await.end, Some(End::Signal(10)));
    assert!(run(&spawner, &job(&[b"true"])).await.succeeded());
    spawner.close().await;
}

#[tokio::test]
async fn arguments_and_outputs_are_bytes() {
    let (spawner, _dir) = start().await;
    let report = run(&spawner, &job(&[b"printf", b"%s|", b"\xff\xfe", b"", b"a\nb"])).await;
    assert_eq!(&report.stdout.head[..], b"\xff\xfe||a\nb|");
    spawner.close().await;
}

#[tokio::test]
async fn a_command_gets_a_session_no_input_and_its_directory() {
    let (spawner, dir) = start().await;
    let mut here = shell("cat; pwd; echo $$; cut -d' ' -f5,6 /proc/self/stat");
    here.directory = Bytes::from_static(b"/usr");
    let report = run(&spawner, &here).await;
    let text = String::from_utf8(report.stdout.head.to_vec()).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "/usr");
    assert_eq!(lines[2], format!("{0} {0}", lines[1]), "it leads its group and session");
    assert!(dir.path().join("lifeline").exists());
    spawner.close().await;
}

#[tokio::test]
async fn a_failed_start_has_a_reason() {
    let (spawner, dir) = start().await;
    let why = async |job: &Order| run(&spawner, job).await.failure();
    assert_eq!(
        why(&job(&[b"no-such-program"])).await,
        "cannot start `no-such-program`: not found in PATH"
    );
    assert_eq!(
        why(&job(&[b"/no/such"])).await,
        "cannot start `/no/such`: it (or its interpreter) does not exist"
    );
    let plain = dir.path().join("plain");
    fs::write(&plain, "x").unwrap();
    let plain = plain.to_str().unwrap();
    assert!(why(&job(&[plain.as_bytes()])).await.ends_with("it is not an executable file"));
    let nowhere = Order { directory: "/no/such".into(), ..job(&[b"true"]) };
    assert!(why(&nowhere).await.ends_with("there is no directory /no/such"));
    let long = vec![b'x'; 100_000];
    let many: Vec<&[u8]> =
        std::iter::once(&b"true"[..]).chain((0..100).map(|_| &long[..])).collect();
    assert!(why(&job(&many)).await.ends_with("longer than the system takes"));
    assert!(run(&spawner, &job(&[b"true"])).await.succeeded(), "it serves on");
    spawner.close().await;
}

#[tokio::test]
async fn long_outputs_are_in_files() {
    let (spawner, dir) = start().await;
    let report = run(&spawner, &shell("head -c 300000 /dev/zero | tr '\\0' x; echo e >&2")).await;
    assert_eq!(report.stdout.len, 300_000);
    assert_eq!(report.stdout.head.len(), OUTPUT_KEPT_BYTES_MAX);
    let file = PathBuf::from(String::from_utf8(report.stdout.file.unwrap().to_vec()).unwrap());
    assert!(file.starts_with(dir.path().join("output")));
    assert_eq!(fs::read(file).unwrap(), vec![b'x'; 300_000]);
    assert_eq!((&report.stderr.head[..], report.stderr.file), (&b"e\n"[..], None));
    spawner.close().await;
}

#[tokio::test]
async fn outputs_of_commands_that_run_at_the_same_time_stay_apart() {
    let (spawner, _dir) = start().await;
    let both = (0..8).map(|n| {
        let spawner = spawner.clone();
        tokio::spawn(async move {
            let script = format!("for i in 1 2 3 4 5; do printf '{n}%01000d' $i; sleep 0.01; done");
            (n, run(&spawner, &shell(&script)).await)
        })
    });
    for task in both.collect::<Vec<_>>() {
        let (n, report) = task.await.unwrap();
        let expected: String = (1..=5).map(|i| format!("{n}{i:01000}")).collect();
        assert_eq!(report.stdout.head, expected.as_bytes(), "of {n}");
    }
    spawner.close().await;
}

#[tokio::test]
async fn cancellation_asks_first_and_kills_then_whole_groups() {
    let (spawner, dir) = start().await;
    let stop_when_ready = async |script: &str, grace| {
        let ready = dir.path().join("ready");
        let _ = fs::remove_file(&ready);
        let script = script.replace("READY", ready.to_str().unwrap());
        let begun = async {
            number_in(&ready).await;
        };
        let order = Order { grace, ..shell(&script) };
        let report = spawner.run(order, begun).await.unwrap();
        (report, number_in(&ready).await)
    };
    let polite = "trap 'echo bye; exit 7' TERM; sleep 1000 & echo $! > READY; wait";
    let (report, sleeper) = stop_when_ready(polite, TIMEOUT).await;
    assert_eq!((report.end, report.canceled), (Some(End::Exit(7)), true));
    assert_eq!(&report.stdout.head[..], b"bye\n");
    until("the sleeper is gone", || !alive(sleeper)).await;
    let deaf = "trap '' TERM; sleep 1000 & echo $! > READY; while :; do wait; done";
    let before = Instant::now();
    let (report, sleeper) = stop_when_ready(deaf, Duration::from_millis(200)).await;
    assert_eq!((report.end, report.canceled), (Some(End::Signal(9)), true));
    assert!(before.elapsed() >= Duration::from_millis(200));
    until("the sleeper is gone", || !alive(sleeper)).await;
    let (report, _) = stop_when_ready("echo $$ > READY; kill -STOP $$", TIMEOUT).await;
    assert_eq!(report.end, Some(End::Signal(15)), "a paused command gets it, too");
    spawner.close().await;
}

#[tokio::test]
async fn processes_left_by_a_command_end_with_it() {
    let (spawner, _dir) = start().await;
    let before = Instant::now();
    let report = run(&spawner, &shell("sleep 1000 & echo $!")).await;
    assert!(report.succeeded());
    let sleeper = std::str::from_utf8(&report.stdout.head).unwrap().trim().parse().unwrap();
    // Its output is at its end, so it no longer runs; its entry in the process table disappears a
    // moment later.
    until("the sleeper is gone", || !alive(sleeper)).await;
    assert!(before.elapsed() < TIMEOUT);
    spawner.close().await;
}

#[tokio::test]
async fn an_output_held_open_by_another_process_is_not_waited_for() {
    let (spawner, _dir) = start().await;
    let report = run(&spawner, &shell("setsid sleep 1000 & echo $!; sleep 0.2")).await;
    assert!(report.succeeded());
    let escaped: i32 = std::str::from_utf8(&report.stdout.head).unwrap().trim().parse().unwrap();
    assert!(alive(escaped), "a process outside of the group may live on");
    let dir = _dir.path().to_owned();
    spawner.close().await;
    assert!(alive(escaped), "after a run that ended well, too");
    let next = try_start(&dir).await.unwrap();
    assert_eq!(next.orphans_killed(), 0);
    next.close().await;
    kill_process(Pid::from_raw(escaped).unwrap(), Signal::KILL).unwrap();
}

#[tokio::test]
async fn dropping_the_future_kills_the_command() {
    let (spawner, dir) = start().await;
    let pid_file = dir.path().join("pid");
    let job = shell(&format!("echo $$ > {}; exec sleep 1000", pid_file.display()));
    let running = tokio::spawn({
        let spawner = spawner.clone();
        async move { run(&spawner, &job).await }
    });
    let pid = number_in(&pid_file).await;
    assert!(alive(pid));
    running.abort();
    until("the command is killed", || !alive(pid)).await;
    spawner.close().await;
}

#[tokio::test]
async fn closing_kills_commands_and_answers_callers() {
    let (spawner, dir) = start().await;
    let pid_file = dir.path().join("pid");
    let job = shell(&format!("echo $$ > {}; exec sleep 1000", pid_file.display()));
    let running = tokio::spawn({
        let spawner = spawner.clone();
        async move { spawner.run(job, std::future::pending()).await }
    });
    let pid = number_in(&pid_file).await;
    spawner.clone().close().await;
    assert!(!alive(pid), "the spawner has waited for it");
    assert!(matches!(running.await.unwrap(), Err(SpawnerError::Gone)));
    let after = spawner.run(shell("true"), std::future::pending()).await;
    assert!(matches!(after, Err(SpawnerError::Gone)));
}

#[tokio::test]
async fn the_death_of_the_spawner_is_noticed_and_takes_the_commands_with_it() {
    let (spawner, dir) = start().await;
    let pid_file = dir.path().join("pid");
    let job = shell(&format!("echo $$ > {}; exec sleep 1000", pid_file.display()));
    let running = tokio::spawn({
        let spawner = spawner.clone();
        async move { spawner.run(job, std::future::pending()).await }
    });
    let pid = number_in(&pid_file).await;
    let process = i32::try_from(spawner.process_id().unwrap()).unwrap();
    kill_process(Pid::from_raw(process).unwrap(), Signal::KILL).unwrap();
    assert!(matches!(running.await.unwrap(), Err(SpawnerError::Gone)));
    until("the command got the death signal", || !alive(pid)).await;
    spawner.close().await;
}

#[tokio::test]
async fn a_directory_has_one_spawner() {
    let (spawner, dir) = start().await;
    let error = try_start(dir.path()).await.unwrap_err();
    assert!(matches!(error, SpawnerError::InUse { .. }), "{error}");
    assert!(run(&spawner, &shell("true")).await.succeeded(), "and the first is not disturbed");
    spawner.close().await;
    let next = try_start(dir.path()).await.unwrap();
    next.close().await;
}

#[tokio::test]
async fn an_unusable_directory_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "x").unwrap();
    let error = try_start(&file.join("exec")).await.unwrap_err();
    assert!(error.to_string().starts_with("cannot use "), "{error}");
    assert!(error.to_string().contains("file/exec: "), "{error}");
}

#[tokio::test]
async fn an_idle_spawner_uses_no_time() {
    let (spawner, _dir) = start().await;
    let process = spawner.process_id().unwrap();
    let asleep = tokio::spawn({
        let spawner = spawner.clone();
        async move { run(&spawner, &shell("sleep 1.2")).await }
    });
    tokio::time::sleep(Duration::from_millis(400)).await;
    let wakeups = || {
        let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
        let line = status.lines().find(|line| line.starts_with("voluntary_ctxt_switches"));
        line.unwrap().split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
    };
    let before = wakeups();
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(wakeups(), before, "it woke up although nothing happened");
    assert!(asleep.await.unwrap().succeeded());
    spawner.close().await;
}

/// Not a test: runs commands that never end, and is killed.
#[tokio::test]
async fn be_the_driver() {
    let Some(dir) = env::var_os(DRIVER_DIR) else { return };
    let dir = Path::new(&dir);
    let spawner = try_start(dir).await.unwrap();
    let pids = dir.join("pids");
    let scripts = [
        "echo $$ > PIDS.plain; exec sleep 1000",
        "sleep 1000 & echo $! > PIDS.grandchild; wait",
        "setsid sh -c 'echo $$ > PIDS.escaped; exec sleep 1000' & wait",
        "setsid -f sh -c 'echo $$ > PIDS.orphan; exec sleep 1000'; exec sleep 1000",
        "exec 3>&- 4>&- 5>&- 6>&- 7>&- 8>&- 9>&-; echo $$ > PIDS.deaf; exec sleep 1000",
    ];
    for script in scripts {
        let job = shell(&script.replace("PIDS", pids.to_str().unwrap()));
        let spawner = spawner.clone();
        tokio::spawn(async move { run(&spawner, &job).await });
    }
    eprintln!("\nspawner {}", spawner.process_id().unwrap());
    std::future::pending::<()>().await;
}

/// Starts the driver and waits until its commands run. Returns the driver, the spawner's process id
/// and the pids of the processes started by the commands.
async fn driven(dir: &Path) -> (std::process::Child, i32, Vec<i32>) {
    let mut driver = oneself("be_the_driver");
    driver.env(DRIVER_DIR, dir).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut driver = driver.spawn().unwrap();
    let spawner = spawner_of(&mut driver);
    let mut pids = Vec::new();
    for kind in ["plain", "grandchild", "escaped", "orphan", "deaf"] {
        pids.push(number_in(&dir.join(format!("pids.{kind}"))).await);
    }
    assert!(pids.iter().all(|pid| alive(*pid)));
    (driver, spawner, pids)
}

/// The process id of a driver's spawner, as the driver prints it.
fn spawner_of(driver: &mut std::process::Child) -> i32 {
    let mut lines = BufReader::new(driver.stderr.take().unwrap()).lines().map_while(Result::ok);
    lines.find_map(|line| line.strip_prefix("spawner ")?.parse().ok()).unwrap()
}

#[tokio::test]
async fn a_resumed_run_meets_no_orphans_of_a_killed_run() {
    let dir = tempfile::tempdir().unwrap();
    let (mut driver, _, pids) = driven(dir.path()).await;
    driver.kill().unwrap();
    driver.wait().unwrap();
    let next = try_start(dir.path()).await.unwrap();
    let left: Vec<_> = pids.iter().filter(|pid| alive(**pid)).collect();
    assert!(left.is_empty(), "orphans: {left:?} of {pids:?}");
    assert!(run(&next, &shell("true")).await.succeeded());
    next.close().await;
}

#[tokio::test]
async fn nor_if_the_spawner_was_killed_too() {
    let dir = tempfile::tempdir().unwrap();
    let (mut driver, spawner, pids) = driven(dir.path()).await;
    let spawner = Pid::from_raw(spawner).unwrap();
    // The spawner first: it must not be able to clean up.
    kill_process(spawner, Signal::KILL).unwrap();
    driver.kill().unwrap();
    driver.wait().unwrap();
    let next = try_start(dir.path()).await.unwrap();
    let left: Vec<_> = pids.iter().filter(|pid| alive(**pid)).collect();
    assert!(left.is_empty(), "orphans: {left:?} of {pids:?}");
    assert!(next.orphans_killed() >= 1, "the death signal does not reach grandchildren");
    next.close().await;
}

#[tokio::test]
async fn the_spawner_kills_commands_when_its_master_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let (mut driver, _, pids) = driven(dir.path()).await;
    driver.kill().unwrap();
    driver.wait().unwrap();
    until("all are ended without a resume", || !pids.iter().any(|pid| alive(*pid))).await;
}

/// Not a test: starts short commands endlessly, and is killed.
#[tokio::test]
async fn be_the_busy_driver() {
    let Some(dir) = env::var_os(BUSY_DRIVER_DIR) else { return };
    let dir = Path::new(&dir);
    let spawner = try_start(dir).await.unwrap();
    let mut hurried = shell("sleep 60 & sleep 0.02; setsid sleep 60 & sleep 0.02");
    hurried.directory = Bytes::copy_from_slice(dir.as_os_str().as_encoded_bytes());
    for _ in 0..4 {
        let (spawner, job) = (spawner.clone(), hurried.clone());
        tokio::spawn(async move {
            loop {
                run(&spawner, &job).await;
            }
        });
    }
    eprintln!("\nspawner {}", spawner.process_id().unwrap());
    std::future::pending::<()>().await;
}

/// The processes whose working directory is `dir`.
fn working_in(dir: &Path) -> Vec<i32> {
    let here = |pid: &i32| fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd == dir);
    procfs::pids().unwrap().into_iter().filter(here).collect()
}

#[tokio::test]
async fn kills_at_any_moment_leave_no_orphans() {
    let dir = tempfile::tempdir().unwrap();
    for round in 0..12 {
        let mut driver = oneself("be_the_busy_driver");
        driver.env(BUSY_DRIVER_DIR, dir.path()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut driver = driver.spawn().unwrap();
        let spawner = spawner_of(&mut driver);
        tokio::time::sleep(Duration::from_millis(20 + round * 13 % 70)).await;
        if round % 2 == 0 {
            let _ = kill_process(Pid::from_raw(spawner).unwrap(), Signal::KILL);
        }
        driver.kill().unwrap();
        driver.wait().unwrap();
        let next = try_start(dir.path()).await.unwrap();
        let left = working_in(dir.path());
        assert!(left.is_empty(), "orphans in round {round}: {left:?}");
        next.close().await;
    }
}

/// Writes a list of running processes, as an earlier run of this boot (or another) left it.
fn leave_list(dir: &Path, boot: &str, pid: u32, ticks: u64) {
    let mut bytes = boot.as_bytes().to_vec();
    bytes.extend_from_slice(&pid.to_le_bytes());
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&ticks.to_le_bytes());
    bytes.extend_from_slice(&ticks.to_le_bytes());
    fs::write(dir.join("running"), bytes).unwrap();
    fs::write(dir.join("lifeline"), "").unwrap();
}

#[tokio::test]
async fn a_reused_process_id_is_not_killed() {
    let mut bystander = Command::new("setsid").args(["sleep", "1000"]).spawn().unwrap();
    let pid = i32::try_from(bystander.id()).unwrap();
    until("it leads a session", || procfs::stat(pid).is_some_and(|stat| stat.session == pid)).await;
    let started = procfs::stat(pid).unwrap().started_ticks;
    let boot = procfs::boot_id().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let other_boot = "0".repeat(36);
    for (boot, ticks) in [(&boot, started - 5), (&boot, started + 5), (&other_boot, started)] {
        leave_list(dir.path(), boot, bystander.id(), ticks);
        let spawner = try_start(dir.path()).await.unwrap();
        assert_eq!(spawner.orphans_killed(), 0);
        assert!(alive(pid), "killed for {boot} {ticks}");
        spawner.close().await;
    }
    leave_list(dir.path(), &boot, bystander.id(), started);
    let spawner = try_start(dir.path()).await.unwrap();
    assert!(!alive(pid), "the very same process is killed");
    assert_eq!(spawner.orphans_killed(), 1);
    spawner.close().await;
    bystander.wait().unwrap();
}
