//! `bench`: its output, its errors, and that it leaves nothing behind.

use crate::place::Place;

/// The names that scripts rely on.
const NAMES: [&str; 16] = [
    "jobs_per_s",
    "ideal_jobs_per_s",
    "ratio_to_ideal",
    "ideal_life_p50_us",
    "ideal_life_p99_us",
    "life_p50_us",
    "life_p99_us",
    "fsyncs_per_job",
    "bytes_per_job",
    "cpu_s_per_1k",
    "peak_rss_mib",
    "in_flight",
    "batch",
    "keys",
    "scopes",
    "rules",
];

#[test]
fn a_short_run_is_measured_and_leaves_nothing() {
    let place = Place::new();
    let arguments = "bench --data-dir data --seconds 1 --in-flight 32 --batch 8 --keys 7 \
                     --scopes 3 --rules 12 --partitions 2";
    let report = place.json(&arguments.split_whitespace().collect::<Vec<_>>());
    for name in NAMES {
        assert!(report[name].is_number(), "{name}: {report}");
    }
    for (name, expected) in [("in_flight", 32), ("batch", 8), ("keys", 7), ("rules", 12)] {
        assert_eq!(report[name], expected, "{report}");
    }
    assert!(report["jobs"].as_u64().unwrap() > 0, "{report}");
    assert!(report["checked"].as_u64() >= report["jobs"].as_u64(), "{report}");
    assert_eq!(report["order_checked"], true);
    assert!(report["fsyncs_per_job"].as_f64().unwrap() > 0.0, "{report}");
    let left = std::fs::read_dir(place.path(".")).unwrap().map(|file| file.unwrap().file_name());
    let left: Vec<_> = left.filter(|name| name.to_string_lossy().contains("data")).collect();
    assert!(left.is_empty(), "it cleans up: {left:?}");
}

#[test]
fn impossible_options_are_refused() {
    let place = Place::new();
    for (option, value, expected) in [
        ("--in-flight", "0", "--in-flight"),
        ("--batch", "3", "--batch"),
        ("--payload", "3", "--payload"),
        ("--rules", "3", "--scopes"),
        ("--seconds", "0", "--seconds"),
        ("--partitions", "0", "--partitions"),
    ] {
        place.run(&["bench", option, value]).expect(2, &["error: ", expected]);
    }
}
