//! The results of a run, for users and for programs.
//!
//! Must always hold: rates and usage are of the windows in which entries were counted; the names in
//! the JSON object are stable.

use std::{io, time::Duration};

use serde::Serialize;

use super::{
    Shape,
    histogram::Histogram,
    ideal::Ideal,
    tracker::Tracker,
    usage::{Used, resident_mib},
};

/// The results of one round of both.
pub(super) struct Round {
    /// Entries that ended in the window.
    pub(super) jobs: u64,
    /// Length of the window.
    pub(super) took: Duration,
    /// Resources used by the process in it, including the load generator.
    pub(super) used: Used,
    /// Syncs of the log.
    pub(super) fsyncs: u64,
    /// Bytes of records in the log.
    pub(super) log_bytes: u64,
    /// Records in the log.
    pub(super) log_records: u64,
    /// Resident memory at its end.
    pub(super) rss_mib: Option<f64>,
    /// Jobs of the ideal queue.
    pub(super) ideal_jobs: u64,
    /// How long it ran.
    pub(super) ideal_time: Duration,
}

impl Round {
    fn jobs_per_s(&self) -> f64 {
        rate(self.jobs, self.took)
    }
}

fn rate(jobs: u64, took: Duration) -> f64 {
    jobs as f64 / took.as_secs_f64().max(f64::EPSILON)
}

/// All results, under the names of the JSON output.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Report {
    in_flight: usize,
    batch: usize,
    keys: u64,
    scopes: u64,
    rules: u32,
    payload: usize,
    /// Total length of the windows.
    seconds: f64,
    jobs: u64,
    jobs_per_s: f64,
    ideal_jobs_per_s: f64,
    ratio_to_ideal: f64,
    enqueue_p50_us: f64,
    enqueue_p99_us: f64,
    enqueue_p999_us: f64,
    dispatch_p50_us: f64,
    dispatch_p99_us: f64,
    dispatch_p999_us: f64,
    life_p50_us: f64,
    life_p99_us: f64,
    life_p999_us: f64,
    ideal_life_p50_us: f64,
    ideal_life_p99_us: f64,
    ideal_life_p999_us: f64,
    fsyncs_per_job: f64,
    /// Of the `write` calls of the process; absent where the system does not report it.
    bytes_per_job: Option<f64>,
    /// Of pages written to the disk.
    disk_bytes_per_job: Option<f64>,
    log_bytes_per_job: f64,
    log_records_per_job: f64,
    cpu_s_per_1k: f64,
    peak_rss_mib: Option<f64>,
    /// Round by round: does throughput decline, does memory grow?
    rounds_jobs_per_s: Vec<f64>,
    rounds_ideal_jobs_per_s: Vec<f64>,
    rounds_rss_mib: Vec<Option<f64>>,
    /// Entries that were checked completely, including the warm-up.
    checked: u64,
    order_checked: bool,
}

impl Report {
    pub(super) fn new(tracker: &Tracker, ideal: &Ideal, rounds: Vec<Round>) -> Self {
        let Shape { in_flight, batch, keys, scopes, rules, payload } = tracker.shape;
        let jobs: u64 = rounds.iter().map(|round| round.jobs).sum();
        let took: Duration = rounds.iter().map(|round| round.took).sum();
        let mut used = Used::default();
        rounds.iter().for_each(|round| used.add(&round.used));
        let sum = |of: fn(&Round) -> u64| rounds.iter().map(of).sum::<u64>() as f64;
        let per_job = |amount: f64| amount / (jobs.max(1) as f64);
        let ideal_time: Duration = rounds.iter().map(|round| round.ideal_time).sum();
        let ideal_rate = rate(rounds.iter().map(|round| round.ideal_jobs).sum(), ideal_time);
        let phases = &tracker.phases;
        let of = |histogram: &Histogram| [0.5, 0.99, 0.999].map(|q| histogram.quantile_us(q));
        let [enqueue, dispatch, life] = [&phases.enqueue, &phases.dispatch, &phases.life].map(of);
        let ideal_life = of(&ideal.life);
        Self {
            in_flight,
            batch,
            keys,
            scopes,
            rules,
            payload,
            seconds: took.as_secs_f64(),
            jobs,
            jobs_per_s: rate(jobs, took),
            ideal_jobs_per_s: ideal_rate,
            ratio_to_ideal: rate(jobs, took) / ideal_rate.max(f64::EPSILON),
            enqueue_p50_us: enqueue[0],
            enqueue_p99_us: enqueue[1],
            enqueue_p999_us: enqueue[2],
            dispatch_p50_us: dispatch[0],
            dispatch_p99_us: dispatch[1],
            dispatch_p999_us: dispatch[2],
            life_p50_us: life[0],
            life_p99_us: life[1],
            life_p999_us: life[2],
            ideal_life_p50_us: ideal_life[0],
            ideal_life_p99_us: ideal_life[1],
            ideal_life_p999_us: ideal_life[2],
            fsyncs_per_job: per_job(sum(|round| round.fsyncs)),
            bytes_per_job: used.written.map(|bytes| per_job(bytes as f64)),
            disk_bytes_per_job: used.disk.map(|bytes| per_job(bytes as f64)),
            log_bytes_per_job: per_job(sum(|round| round.log_bytes)),
            log_records_per_job: per_job(sum(|round| round.log_records)),
            cpu_s_per_1k: per_job(used.cpu.as_secs_f64()) * 1e3,
            peak_rss_mib: resident_mib().1,
            rounds_jobs_per_s: rounds.iter().map(Round::jobs_per_s).collect(),
            rounds_ideal_jobs_per_s: rounds
                .iter()
                .map(|round| rate(round.ideal_jobs, round.ideal_time))
                .collect(),
            rounds_rss_mib: rounds.iter().map(|round| round.rss_mib).collect(),
            checked: tracker.ended(),
            order_checked: keys > 0 && tracker.shape.tracks_keys(),
        }
    }

    /// Throughput of the last round as a fraction of the first one's.
    fn last_of_first(&self) -> f64 {
        match self.rounds_jobs_per_s.as_slice() {
            [first, .., last] => last / first.max(f64::EPSILON),
            _ => 1.0,
        }
    }

    /// Resident memory at the end of each round.
    fn memory(&self) -> String {
        let mib = |mib: &Option<f64>| mib.map_or_else(|| "?".to_owned(), |mib| format!("{mib:.0}"));
        let all: Vec<_> = self.rounds_rss_mib.iter().map(mib).collect();
        format!("{} MiB", all.join(" "))
    }

    /// Prints it to standard output.
    pub(super) fn print(&self, as_json: bool) -> io::Result<()> {
        let mut text = if as_json { serde_json::to_vec(self)? } else { self.text().into_bytes() };
        text.push(b'\n');
        // A reader that closes it early needs no more of it.
        crate::console::print(&text).map(drop)
    }

    fn text(&self) -> String {
        let known = |number: Option<f64>, unit: &str| {
            number.map_or_else(|| "unknown".to_owned(), |number| format!("{number:.0}{unit}"))
        };
        let rows = [
            ("enqueue", self.enqueue_p50_us, self.enqueue_p99_us, self.enqueue_p999_us),
            ("dispatch", self.dispatch_p50_us, self.dispatch_p99_us, self.dispatch_p999_us),
            ("whole life", self.life_p50_us, self.life_p99_us, self.life_p999_us),
            ("ideal life", self.ideal_life_p50_us, self.ideal_life_p99_us, self.ideal_life_p999_us),
        ];
        let mut lines = vec![
            format!(
                "{} in flight in batches of {}, {} bytes; {} keys, {} scopes, {} rules; {:.0} s",
                self.in_flight,
                self.batch,
                self.payload,
                self.keys,
                self.scopes,
                self.rules,
                self.seconds,
            ),
            String::new(),
            format!("entries/s    {:>12.0}", self.jobs_per_s),
            format!("ideal queue  {:>12.0}", self.ideal_jobs_per_s),
            format!("ratio        {:>12.3}", self.ratio_to_ideal),
            String::new(),
            format!("{:<12} {:>10} {:>10} {:>10}", "us", "p50", "p99", "p99.9"),
        ];
        lines.extend(rows.map(|(name, p50, p99, p999)| {
            format!("{name:<12} {p50:>10.0} {p99:>10.0} {p999:>10.0}")
        }));
        let order = match self.order_checked {
            true => ", in the order of its key",
            false => "",
        };
        lines.extend([
            String::new(),
            format!("fsyncs per entry         {:>10.3}", self.fsyncs_per_job),
            format!("log records per entry    {:>10.3}", self.log_records_per_job),
            format!("log bytes per entry      {:>10.0}", self.log_bytes_per_job),
            format!("written bytes per entry  {:>10}", known(self.bytes_per_job, "")),
            format!("disk bytes per entry     {:>10}", known(self.disk_bytes_per_job, "")),
            format!("CPU s per 1,000 entries  {:>10.4}", self.cpu_s_per_1k),
            format!("peak memory              {:>10}", known(self.peak_rss_mib, " MiB")),
            format!("last of first round      {:>10.3}", self.last_of_first()),
            format!("memory, round by round   {}", self.memory()),
            String::new(),
            format!("checked: {} entries, each ran once and ended once{order}", self.checked),
        ]);
        lines.join("\n")
    }
}
