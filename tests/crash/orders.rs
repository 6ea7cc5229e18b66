//! 2,000 orders with steps, calls, sleeps and sends, until kill -9, 30 times: each operation
//! returns the same in every attempt, every order ends, every child exists once, and the rows equal
//! a fresh replay of the log.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use forebay::{
    Context, Drain, Entry, HandlerError, HandlerOptions, Json, RetryPolicy, Runtime, TrimLog,
};

use super::random::Random;
use crate::{
    place::{Place, len, say},
    replay,
};

const ORDERS: u32 = 2_000;
const CHILDREN: u32 = 2;
const KILLS: u64 = 30;
/// Maximum growth of the trace before a kill, in bytes.
const GROWTH_MAX: u64 = 60_000;
/// Maximum wait for that growth; after it, the kill hits the start.
const WAIT_MAX: Duration = Duration::from_millis(900);

/// Name of the test below in the test harness.
const TEST: &str = "crash::orders::killed_process";
/// Its directory; without it the test does nothing.
const DIRECTORY: &str = "FOREBAY_ORDERS_DIRECTORY";
/// Set for the last run, which ends everything instead of being killed.
const IS_LAST: &str = "FOREBAY_ORDERS_LAST";

#[test]
fn kill_9_repeats_nothing_that_was_remembered() {
    let mut random = Random::from_environment();
    let place = Place::new();
    let begun = Instant::now();
    for _ in 0..KILLS {
        run_and_kill(&place, &mut random);
    }
    let ended = start(&place, true).wait().unwrap();
    assert!(ended.success(), "the last run: {}", output(&place));
    let records = replay::check_rows(&place.path("data"));
    let trace = fs::read_to_string(place.path("trace")).unwrap();
    let (mut returned, mut repeated) = (BTreeMap::new(), 0);
    for line in trace.lines() {
        let mut words = line.splitn(3, ' ');
        let operation = (words.next().unwrap(), words.next().unwrap());
        let value = words.next().unwrap();
        if let Some(first) = returned.insert(operation, value) {
            assert_eq!(first, value, "{operation:?}");
            repeated += 1;
        }
    }
    assert_eq!(returned.len(), ORDERS as usize * 4, "every operation of every order returned");
    assert!(repeated > 0, "no operation was replayed");
    let took = begun.elapsed();
    say(&format!("{KILLS} kills, {records} records, {repeated} results replayed, {took:?}"));
}

fn start(place: &Place, is_last: bool) -> Child {
    let file = |name| File::options().create(true).append(true).open(place.path(name)).unwrap();
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", TEST, "--nocapture"])
        .env(DIRECTORY, place.path(""))
        .env(IS_LAST, if is_last { "1" } else { "0" })
        .stdin(Stdio::null())
        .stdout(file("output"))
        .stderr(file("output"))
        .spawn()
        .unwrap()
}

fn output(place: &Place) -> String {
    let text = fs::read_to_string(place.path("output")).unwrap();
    text.lines().rev().take(30).collect::<Vec<_>>().join("\n")
}

fn run_and_kill(place: &Place, random: &mut Random) {
    let trace = place.path("trace");
    let (before, growth) = (len(&trace), random.below(GROWTH_MAX));
    let late = Duration::from_micros(random.below(60_000));
    let mut child = start(place, false);
    let started = Instant::now();
    while len(&trace) < before + growth && started.elapsed() < WAIT_MAX {
        if let Some(ended) = child.try_wait().unwrap() {
            panic!("it ended before the kill, {ended}: {}", output(place));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    std::thread::sleep(late);
    child.kill().unwrap();
    child.wait().unwrap();
}

/// Lines `ORDER OPERATION VALUE`, each with one `O_APPEND` write: whole or missing after a kill.
#[derive(Clone)]
struct Trace(Arc<File>);

impl Trace {
    fn returned(&self, order: u32, operation: &str, value: &str) {
        (&*self.0).write_all(format!("{order} {operation} {value}\n").as_bytes()).unwrap();
    }
}

#[test]
fn killed_process() {
    let Some(directory) = std::env::var_os(DIRECTORY).map(PathBuf::from) else { return };
    let is_last = std::env::var(IS_LAST).unwrap() == "1";
    let tokio = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    tokio.unwrap().block_on(live(&directory, is_last));
}

/// A result that differs each time it is computed.
async fn fresh() -> Result<String, HandlerError> {
    tokio::time::sleep(Duration::from_millis(5)).await;
    Ok(uuid::Uuid::new_v4().to_string())
}

async fn order(
    context: Context,
    Json(number): Json<u32>,
    trace: Trace,
) -> Result<Json<u32>, HandlerError> {
    let charge = context.step("charge", |_| fresh()).await?;
    trace.returned(number, "charge", &charge);
    let mut calls = Vec::new();
    for child in 0..CHILDREN {
        calls.push(context.call::<String>("ship", Entry::to("ship").json(&(number, child))?));
    }
    let parcels: Vec<_> = context.join(calls).await.into_iter().collect::<Result<_, _>>()?;
    trace.returned(number, "ship", &format!("{parcels:?}"));
    context.sleep("cool down", Duration::from_millis(u64::from(number % 400))).await?;
    trace.returned(number, "now", &format!("{:?}", context.now()));
    let mail = context.send("mail", Entry::to("mail").json(&number)?).await?;
    trace.returned(number, "mail", &mail.to_string());
    Ok(Json(number))
}

async fn live(directory: &Path, is_last: bool) {
    let file = File::options().create(true).append(true).open(directory.join("trace"));
    let trace = Trace(Arc::new(file.unwrap()));
    let options = HandlerOptions {
        suspend_after: Some(Duration::from_millis(100)),
        interruptions_max: Some(u32::MAX),
        retry: RetryPolicy { attempts_max: 0, ..RetryPolicy::default() },
        retention: Some(Duration::MAX),
        ..HandlerOptions::default()
    };
    let runtime = Runtime::builder()
        .data_dir(directory.join("data"))
        .trim_log(TrimLog::Never)
        .partitions(3)
        .max_running(200)
        .handler_with("order", options, move |context, number| {
            order(context, number, trace.clone())
        })
        .handler_with("ship", options, |context: Context, Json(_): Json<(u32, u32)>| async move {
            Ok(Json(context.step("ship", |_| fresh()).await?))
        })
        .handler_with("mail", options, |_: Context, Json(_): Json<u32>| async { Ok(()) })
        .start()
        .await
        .unwrap();
    let entry = |number: u32| {
        let mut uuid = [0; 16];
        uuid[..4].copy_from_slice(&number.to_be_bytes());
        Entry::to("order").uuid(uuid).json(&number).unwrap()
    };
    let orders = runtime.enqueue_batch((0..ORDERS).map(entry).collect()).await.unwrap();
    for (number, order) in (0..).zip(&orders) {
        assert_eq!(order.result::<u32>().await.unwrap(), number);
    }
    for (service, count) in [("ship", ORDERS * CHILDREN), ("mail", ORDERS)] {
        let found = runtime.entries().service(service).count().await.unwrap();
        assert_eq!(found.to_string(), count.to_string(), "{service}");
    }
    if !is_last {
        // It waits for its kill.
        tokio::time::sleep(Duration::from_secs(3_600)).await;
    }
    runtime.shutdown(Drain::within(Duration::from_secs(10))).await.unwrap();
}
