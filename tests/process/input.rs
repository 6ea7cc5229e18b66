//! Input in all its forms, and input that is refused.

use std::{collections::BTreeSet, os::unix::fs::PermissionsExt};

use super::{exec, numbers, ran};
use crate::place::{Place, say};

#[test]
fn ndjson_gives_arguments_names_and_fields() {
    let place = Place::new();
    place.write(
        "items",
        concat!(
            r#"{"args":["a","b c"],"key":"k1","scope":"s1","limit_key":"x/y","id":"one","w":7}"#,
            "\n\n",
            r#"{"args":["d"],"w":"e f"}"#,
            "\n",
            // The same id: the same item, whatever its other fields.
            r#"{"args":["z"],"id":"one","key":"k1","scope":"s1","limit_key":"x/y","w":0}"#,
        ),
    );
    let script = r#"printf '<%s>' "$@""#;
    let rest = ["--ndjson", "--input", "items", "--results", "results", "--scope", "t"];
    let words = ["--", "sh", "-c", script, "sh", "{w}", "{}", "{v:-none}", "{{w}}"];
    place.run(&exec(&[&rest[..], &words].concat())).expect(0, &["2 succeeded"]);
    let results = crate::place::objects(&place.path("results/results.ndjson"));
    let by_line = |number: u64| results.iter().find(|line| line["line"] == number).unwrap();
    let (one, two) = (by_line(1), by_line(3));
    assert_eq!(one["stdout"], "<7><a><b c><none><{w}>");
    assert_eq!(two["stdout"], "<e f><d><none><{w}>");
    assert_eq!(
        (&one["scope"], &one["limit_key"], &one["key"]),
        (&"s1".into(), &"x/y".into(), &"k1".into())
    );
    assert_eq!(two["scope"], "t", "the option's template if the object has no scope");
    let entries = place.json(&["entries", "--data-dir", "data", "--scope", "s1"]);
    assert_eq!(
        (&entries[0]["limit_key"], &entries[0]["key"], &entries[1]),
        (&"x/y".into(), &"k1".into(), &serde_json::Value::Null)
    );
}

#[test]
fn templates_take_a_path_apart() {
    let place = Place::new();
    let words = ["--json", "--", "echo", "{}", "{/}", "{//}", "{.}", "{ext}", "[{ext:-none}]"];
    let done = place.feed(&exec(&words), b"a/b.c/d.tar.gz\n").expect(0, &[]);
    let item: serde_json::Value =
        serde_json::from_str(done.text().lines().next().unwrap()).unwrap();
    assert_eq!(item["stdout"], "a/b.c/d.tar.gz d.tar.gz a/b.c a/b.c/d.tar gz [gz]\n");
    let done = place.feed(&exec(&["--", "echo", "x"]), b"Makefile\n").expect(0, &[]);
    assert_eq!(done.text(), "x Makefile\n", "appended where there is no template");
}

#[test]
fn nul_separated_names_may_be_anything() {
    let place = Place::new();
    let names: [&[u8]; 6] =
        [b"a\nb", b" lead and trail ", b"\xff\xfe.txt", b"-n", b"$(touch pwned)'\"", b"{}"];
    let input = names.join(&0);
    let script = r#"printf '%s\0' "$1" >> named"#;
    let rest = ["-0", "--jobs", "1", "--key", "k", "--", "sh", "-c", script, "sh", "{}"];
    place.feed(&exec(&rest), &input).expect(0, &["6 succeeded"]);
    let named = std::fs::read(place.path("named")).unwrap();
    assert_eq!(named, [&input[..], b"\0"].concat());
    assert!(!place.path("pwned").exists());
}

#[test]
fn bad_lines_are_named_and_the_others_run() {
    let place = Place::new();
    let items = concat!(
        r#"{"args":["1"]}"#,
        "\n{\"args\":\n[1]\n",
        r#"{"args":["4"],"scope":"no spaces"}"#,
        "\n",
        r#"{"args":["5"]}"#,
        "\n",
        r#"{"args":["6"],"limit_key":"a/b/c"}"#,
        "\n",
        r#"{"args":{"a":1}}"#,
    );
    place.write("items", items);
    let rest = ["--ndjson", "--input", "items", "--", "sh", "-c", "echo {} >> started"];
    let expected = [
        "line 2: ",
        "line 3: ",
        "line 4: scope `no spaces`",
        "line 6: ",
        "line 7: ",
        "2 succeeded",
    ];
    place.run(&exec(&rest)).expect(1, &expected);
    assert_eq!(ran(&place, "started").into_iter().collect::<BTreeSet<_>>(), [1, 5].into());
    // And again: the exit code stays 1, nothing runs twice.
    place.run(&exec(&rest)).expect(1, &["line 2: ", "2 were done before"]);
    assert_eq!(ran(&place, "started").len(), 2);
}

#[test]
fn strict_refuses_the_whole_input_before_storing_any() {
    let place = Place::new();
    place.write("items", format!("{}{{\n", r#"{"args":["1"]}"#.to_owned() + "\n"));
    let rest = ["--ndjson", "--input", "items", "--", "sh", "-c", "echo {} >> started"];
    place.run(&[&exec(&["--strict"])[..], &rest].concat()).expect_refused(&["line 2: "]);
    assert!(!place.path("started").exists() && !place.path("data").exists());
    place.write("items", r#"{"args":["1"]}"#);
    place.run(&[&exec(&["--strict"])[..], &rest].concat()).expect(0, &["1 succeeded"]);
}

#[test]
fn names_are_checked_by_line() {
    let place = Place::new();
    place.write("items", format!("good\nno good\n{}\n", "x".repeat(600)));
    place
        .run(&exec(&["--input", "items", "--scope", "{}", "--", "true"]))
        .expect(1, &["line 2: scope `no good`", "line 3: ", "1 succeeded"]);
    place
        .run(&exec(&["--input", "items", "--key", "{}", "--", "true", "2"]))
        .expect(1, &["line 3: ", "2 succeeded"]);
    // An empty scope means no scope.
    place.write("items", "noextension\n");
    place.run(&exec(&["--input", "items", "--scope", "{ext}", "--", "true"])).expect(0, &[]);
}

#[test]
fn templates_that_no_line_can_fill_are_refused_at_once() {
    let place = Place::new();
    place.write("items", numbers(2));
    let refused = |rest: &[&str], expected: &[&str]| {
        let started: &[&str] = &["--", "touch", "started"];
        let command = if rest.contains(&"--") { &[] } else { started };
        place.run(&exec(&[&["--input", "items"], rest, command].concat())).expect_refused(expected);
        assert!(!place.path("started").exists() && !place.path("data").exists(), "{rest:?}");
    };
    refused(&["--", "touch", "started", "{name}"], &["`{name}`", "--ndjson"]);
    refused(&["--key", "{name}"], &["`{name}`"]);
    refused(&["--scope", "{name}"], &["`{name}`"]);
    for pattern in ["a/b/c/d=1", "a b=1", "*=0", "*=many", "a", "**=1"] {
        refused(&["--rule", pattern], &["--rule"]);
    }
    refused(&["--", "no-such-command-anywhere"], &["no-such-command-anywhere", "not found"]);
    refused(&["--", "./items"], &["./items", "not an executable file"]);
    refused(&["--jobs", "0"], &["--jobs"]);
}

#[test]
fn an_input_that_cannot_be_read_is_refused() {
    let place = Place::new();
    let refused = |input: &str, expected: &[&str]| {
        place.run(&exec(&["--input", input, "--", "true"])).expect_refused(expected);
        assert!(!place.path("data").exists(), "{input}");
    };
    refused("nowhere", &["cannot read nowhere: No such file"]);
    refused(".", &["cannot read .: is a directory"]);
    place.write("secret", "1\n");
    let nothing = PermissionsExt::from_mode(0o000);
    std::fs::set_permissions(place.path("secret"), nothing).unwrap();
    if std::fs::read(place.path("secret")).is_ok() {
        say("skipped: this user can read everything, so unreadable input is not tested");
    } else {
        refused("secret", &["cannot read secret: Permission denied"]);
    }
}

#[test]
fn a_command_that_vanishes_fails_its_items_only() {
    let place = Place::new();
    place.write("items", "{\"p\":\"true\"}\n{\"p\":\"no-such-command-anywhere\"}\n");
    place
        .run(&exec(&["--ndjson", "--input", "items", "--", "{p}"]))
        .expect(1, &["1 succeeded, 1 failed", "no-such-command-anywhere"]);
}
