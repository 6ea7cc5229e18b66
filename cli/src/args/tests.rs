//! Command lines as typed, and refused ones.

use std::{ffi::OsString, num::NonZeroU32, os::unix::ffi::OsStringExt, time::Duration};

use forebay_engine::rules::Edit;

use super::{
    BackoffArg, Cli, Command, DelimiterArg, RateArg, RuleArg, command_line, parse,
    values::{duration, seconds},
};
use crate::args::RulesCommand;

/// A well-formed id of no entry.
const UNKNOWN: &str = "ent_0DMI9oORqVM5I5G2Xq3JW7loIRUEovcLD";

fn cli(line: &[&str]) -> Result<Cli, clap::Error> {
    parse(std::iter::once("forebay").chain(line.iter().copied()).map(OsString::from))
}

#[test]
fn clap_accepts_the_declaration() {
    command_line().debug_assert();
    let help = command_line().render_help().to_string();
    assert!(help.starts_with("Durable, flow-controlled work queues"), "{help}");
}

#[test]
fn exec_takes_everything_after_the_dashes_as_the_command() {
    let line = cli(&[
        "exec",
        "-0",
        "--rule",
        "*=4",
        "--rule",
        "a/b=none",
        "--jobs",
        "3",
        "--",
        "sh",
        "-c",
        "echo --json {}",
    ])
    .unwrap();
    let Command::Exec(exec) = line.command else { panic!("not exec") };
    assert_eq!(exec.command, ["sh", "-c", "echo --json {}"]);
    assert!(exec.null && !exec.ndjson && !line.global.json);
    assert_eq!(exec.jobs().get(), 3);
    assert_eq!(exec.rules[0].limits.concurrency, NonZeroU32::new(4).into());
    assert_eq!(exec.rules[1].pattern.to_string(), "a/b");
    assert_eq!(exec.rules[1].limits.concurrency, Edit::Clear);
    assert_eq!((exec.retries, exec.input.to_str()), (0, Some("-")));
}

#[test]
fn global_options_may_follow_the_subcommand() {
    let line = cli(&["exec", "--json", "--data-dir", "d", "--log", "debug", "--", "true"]).unwrap();
    assert!(line.global.json);
    assert_eq!(line.global.data_dir.to_str(), Some("d"));
    assert_eq!(line.global.log, tracing::level_filters::LevelFilter::DEBUG);
}

#[test]
fn a_command_may_hold_any_bytes() {
    let bytes = OsString::from_vec(vec![b'a', 0xff]);
    let line = ["forebay", "exec", "--"].map(OsString::from).into_iter().chain([bytes.clone()]);
    let Command::Exec(exec) = parse(line).unwrap().command else { panic!("not exec") };
    assert_eq!(exec.command, [bytes]);
}

#[test]
fn wrong_usage_is_exit_code_2_and_names_the_option() {
    for (line, said) in [
        (&["exec"][..], "COMMAND"),
        (&["exec", "--"], "COMMAND"),
        (&["exec", "--rule", "*", "--", "true"], "PATTERN=N"),
        (&["exec", "--rule", "a b=1", "--", "true"], "character ` ` at byte 1"),
        (&["exec", "--rule", "a/b/c/d=1", "--", "true"], "at most 3"),
        (&["exec", "--rule", "a=0", "--", "true"], "`0` is not a limit"),
        (&["exec", "--jobs", "0", "--", "true"], "--jobs"),
        (&["exec", "-0", "--ndjson", "--", "true"], "--ndjson"),
        (&["exec", "--log", "loud", "--", "true"], "--log"),
        (&["rules", "set", "a/*"], "--concurrency"),
        (&["nonsense"], "nonsense"),
        (&["cancel"], "--scope"),
        (&["cancel", "ent_x"], "`ent_x` is damaged"),
        (&["kill", "vq_x"], "should start with `ent_`"),
        (&["exec", "--resume", "--retry-failed"], "cannot be used with"),
        (&["kill", "--all", "--scope", "a"], "cannot be used with"),
        (&["kill", "--limit-key", "a"], "--scope"),
        (&["kill", "--stage", "finished"], "possible values: inbox, running"),
        (&["pause", "--queue", "vq_x"], "`vq_x` is damaged"),
        (&["cancel", "--queue", "vq_x"], "--queue"),
        (&["reschedule", "--all"], "--at"),
        (&["reschedule", "--all", "--now", "--in", "1s"], "cannot be used with"),
        (&["reschedule", "--all", "--at", "tomorrow"], "--at"),
        (&["purge", "--stage", "running"], "--stage"),
        (&["redrive", "--older-than", "x"], "`x` is not a duration"),
        (&["restart", "--all", "--from", "a"], "cannot be used with"),
        (&["resolve", UNKNOWN, "a", "--value", "yes"], "a text needs quotes"),
        (&["resolve", UNKNOWN, "a", "--value", "1", "--reject", "b"], "cannot be used with"),
    ] {
        let error = cli(line).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{line:?}: {error}");
        assert!(error.to_string().contains(said), "{line:?}: {error}");
    }
}

#[test]
fn rules_set_reads_its_limits() {
    let line = [
        "rules",
        "set",
        "t/*",
        "--concurrency",
        "none",
        "--rate",
        "3/10s",
        "--burst",
        "9",
        "--if-version",
        "7",
    ];
    let Command::Rules(rules) = cli(&line).unwrap().command else { panic!("not rules") };
    let RulesCommand::Set(set) = rules.command else { panic!("not set") };
    assert_eq!(set.concurrency.unwrap().0, None);
    assert_eq!(set.rate.unwrap().0.unwrap().period_ms, 10_000);
    assert_eq!((set.burst, set.target.if_version), (Some(9), Some(7)));
}

#[test]
fn durations_and_rates() {
    assert_eq!(duration("1m30s").unwrap(), Duration::from_secs(90));
    assert_eq!(duration("7d").unwrap(), Duration::from_secs(7 * 86_400));
    assert_eq!(duration("PT2H").unwrap(), Duration::from_secs(7200));
    for wrong in ["", "-1s", "5", "soon", "18446744073709551615d"] {
        assert!(duration(wrong).is_err(), "{wrong}");
    }
    for (text, millis) in [("5", 5000), ("0.25", 250), ("0", 0), (".5", 500), ("1m", 60_000)] {
        assert_eq!(seconds(text).unwrap(), Duration::from_millis(millis), "{text}");
    }
    for wrong in ["", ".", "-1", "1e3", "inf", "1.2.3", "99999999999999999999999"] {
        assert!(seconds(wrong).is_err(), "{wrong}");
    }
    let rate = |text: &str| {
        text.parse::<RateArg>().map(|RateArg(rate)| rate.map(|rate| (rate.tokens, rate.period_ms)))
    };
    assert_eq!(rate("100/s").unwrap(), Some((100, 1000)));
    assert_eq!(rate("5/m").unwrap(), Some((5, 60_000)));
    assert_eq!(rate("1000/h").unwrap(), Some((1000, 3_600_000)));
    assert_eq!(rate("none").unwrap(), None);
    for wrong in ["100", "0/s", "a/s", "5/", "5/0s", "5/fortnight"] {
        assert!(rate(wrong).is_err(), "{wrong}");
    }
    assert!("=5".parse::<RuleArg>().is_err());
}

#[test]
fn a_rule_may_have_several_limits() {
    let rule = |text: &str| text.parse::<RuleArg>();
    let limits = rule("acme/*=5,rate=10/s,burst=30,backlog=100,weight=2").unwrap().limits;
    let number = |limit| Edit::from(NonZeroU32::new(limit));
    assert_eq!((limits.concurrency, limits.weight), (number(5), number(2)));
    assert_eq!(limits.backlog, number(100));
    let Edit::Set(rate) = limits.rate else { panic!("no rate") };
    assert_eq!((rate.tokens, rate.period_ms, rate.burst), (10, 1_000, 30));
    let limits = rule("acme=rate=none,backlog=none").unwrap().limits;
    assert_eq!((limits.rate, limits.backlog), (Edit::Clear, Edit::Clear));
    assert_eq!(limits.concurrency, Edit::Keep, "omitted limits stay");
    for (wrong, said) in [
        ("acme=5,speed=3", "`speed` is no limit of a rule"),
        ("acme=5,6", "`concurrency` is given twice"),
        ("acme=burst=3", "`burst` needs a rate"),
        ("acme=rate=none,burst=3", "`burst` needs a rate"),
        ("acme=rate=fast", "`fast` is not a rate"),
        ("acme=", "`` is not a limit"),
    ] {
        let error = rule(wrong).unwrap_err().to_string();
        assert!(error.contains(said), "{wrong}: {error}");
    }
    let tested = cli(&["rules", "test", "acme=5,rate=10/s"]).unwrap_err().to_string();
    assert!(tested.contains("only concurrency limits can be tested"), "{tested}");
}

#[test]
fn delimiters_and_factors() {
    let delimiter = |text: &str| text.parse::<DelimiterArg>().map(|DelimiterArg(byte)| byte);
    for (text, byte) in [(",", b','), ("\\n", b'\n'), ("\\0", 0), ("\\x1f", 31), ("\\", b'\\')] {
        assert_eq!(delimiter(text), Ok(byte), "{text}");
    }
    for wrong in ["", "ab", "é", "\\x1", "\\q", "\\xzz"] {
        assert!(delimiter(wrong).is_err(), "{wrong}");
    }
    let factor = |text: &str| text.parse::<BackoffArg>().map(|BackoffArg(percent)| percent);
    assert_eq!((factor("1"), factor("1.5"), factor("100")), (Ok(100), Ok(150), Ok(10_000)));
    for wrong in ["0.5", "101", "nan", "inf", "x"] {
        assert!(factor(wrong).is_err(), "{wrong}");
    }
}
