//! Items become entries: names, identity, refusals.

use std::{collections::HashMap, ffi::OsString, path::Path};

use bilrost::{Message, OwnedMessage};
use bytes::Bytes;
use proptest::prelude::*;

use super::{ARG_BYTES_MAX, ItemError, Job, Plan, Prepared, Templates};
use crate::exec::{
    input::{Format, Input, Numbered},
    template::{Item, Offer},
};

struct Line {
    command: Vec<OsString>,
    key: Option<OsString>,
    scope: Option<OsString>,
    limit_key: Option<OsString>,
    again: Option<&'static str>,
    directory: &'static str,
}

fn line(command: &[&str]) -> Line {
    let command = command.iter().map(OsString::from).collect();
    Line { command, key: None, scope: None, limit_key: None, again: None, directory: "/w" }
}

impl Line {
    fn key(mut self, text: &str) -> Self {
        self.key = Some(text.into());
        self
    }

    fn scope(mut self, text: &str) -> Self {
        self.scope = Some(text.into());
        self
    }

    fn limit_key(mut self, text: &str) -> Self {
        self.limit_key = Some(text.into());
        self
    }

    fn plan(&self, offer: Offer) -> Plan {
        let templates = Templates {
            command: &self.command,
            key: self.key.as_ref(),
            scope: self.scope.as_ref(),
            limit_key: self.limit_key.as_ref(),
            chdir: None,
        };
        Plan::compile(&templates, offer, Path::new(self.directory), self.again).unwrap()
    }

    fn of(&self, text: &[u8]) -> Result<Prepared, ItemError> {
        let numbered = Numbered { number: 7, item: Item::line(text.to_vec()) };
        self.plan(Offer::Line).prepare(&numbered)
    }

    fn of_object(&self, json: &str) -> Result<Prepared, ItemError> {
        let numbered = Input::new(json.as_bytes(), Format::Ndjson).next().unwrap().unwrap();
        self.plan(Offer::Object).prepare(&numbered)
    }
}

#[test]
fn an_item_becomes_an_entry() {
    let prepared =
        line(&["sha256sum", "{}"]).key("{//}").scope("{ext:-none}").of(b"a/b.rs").unwrap();
    assert_eq!(prepared.job.argv, [&b"sha256sum"[..], b"a/b.rs"]);
    assert_eq!((prepared.job.directory.as_ref(), prepared.job.number), (&b"/w"[..], 7));
    let run = line(&["sha256sum", "{}"]).plan(Offer::Line).run().id();
    assert_eq!(prepared.vqueue.service, run.service());
    assert_eq!(prepared.vqueue.scope.as_deref(), Some("rs"));
    assert_eq!(prepared.vqueue.object_key.as_deref(), Some("a"));
    assert_eq!(prepared.id.partition_key, prepared.vqueue.partition_key(None, &prepared.id.uuid));
    let places = [&b"a"[..], b"b"].map(|item| line(&["x"]).of(item).unwrap().id.partition_key);
    assert_eq!(places[0], places[1], "without scope and key: one vqueue");
}

#[test]
fn a_job_knows_its_item_and_keeps_it_once() {
    let of = |command: &[&str]| line(command).of(b"a b.txt").unwrap().job;
    for command in [&["echo", "{}"][..], &["echo"], &["echo", "x{.}", "{}", "{}"]] {
        let job = of(command);
        assert_eq!(job.item(), &b"a b.txt"[..], "{command:?}");
        assert!(job.item.is_empty(), "{command:?}: it is among the arguments");
    }
    for command in [&["echo", "<{}>"][..], &["{}"], &["echo", "{#}"]] {
        assert_eq!(of(command).item(), &b"a b.txt"[..], "{command:?}");
    }
    let object = |command: &[&str], json| line(command).of_object(json).unwrap().job.item();
    assert_eq!(object(&["echo"], r#"{"args":["a","b"],"n":1}"#), &b"a b"[..]);
    assert_eq!(object(&["echo", "{n}"], r#"{ "n": 1 }"#), &br#"{"n":1}"#[..]);
    let job = of(&["echo", "{}"]);
    assert_eq!(Job::decode(job.encode_to_bytes()).unwrap(), job);
    assert_eq!(Job { item_from: 9, item_len: u64::MAX, ..job }.item(), &b""[..], "damaged");
}

#[test]
fn a_command_that_is_too_long_to_be_stored_is_refused() {
    let word = "{}".repeat(60);
    let command: Vec<&str> = std::iter::once("echo").chain([word.as_str(); 50]).collect();
    let error = line(&command).of(&[b'x'; 2_000]).unwrap_err();
    assert!(matches!(error, ItemError::TooLarge { len } if len > 6_000_000), "{error}");
}

#[test]
fn the_object_has_its_own_names() {
    let line = line(&["x"]).scope("{tenant:-}").key("k");
    let prepared = line
        .of_object(r#"{"args": ["a"], "key": 5, "scope": "s", "limit_key": "l/m", "tenant": "t"}"#)
        .unwrap();
    assert_eq!(prepared.vqueue.scope.as_deref(), Some("s"));
    assert_eq!(prepared.vqueue.limit_key(), "l/m");
    assert_eq!(prepared.vqueue.object_key.as_deref(), Some("5"));
    let prepared = line.of_object(r#"{"key": "", "tenant": "t"}"#).unwrap();
    assert_eq!(prepared.vqueue.scope.as_deref(), Some("t"), "the option's template");
    assert_eq!(prepared.vqueue.object_key, None, "an empty key is no key");
    assert_eq!(line.of_object("{}").unwrap().vqueue.scope, None, "an empty scope is no scope");
}

#[test]
fn names_that_are_not_allowed_are_refused() {
    let error_of = |result: Result<Prepared, ItemError>| result.unwrap_err().to_string();
    assert!(error_of(line(&["x"]).scope("{}").of(b"a b")).contains("character ` ` at byte 1"));
    assert!(
        error_of(line(&["x"]).scope("s").limit_key("a/b/c").of(b"x"))
            .contains("more than two levels")
    );
    assert!(error_of(line(&["x"]).limit_key("a").of(b"x")).contains("needs a scope"));
    assert!(error_of(line(&["x"]).key("{}").of(&[b'k'; 513])).contains("513 bytes"));
    assert!(error_of(line(&["x"]).key("{}").of(b"\xff")).contains("--key `\u{fffd}` is not UTF-8"));
    assert!(error_of(line(&["x"]).of_object(r#"{"scope": []}"#)).contains("`scope` is an array"));
    assert!(
        error_of(line(&["x"]).key("{user}").of_object("{}")).starts_with("--key: no field `user`")
    );
    assert!(
        error_of(line(&["x", "{user}"]).of_object("{}")).starts_with("COMMAND: no field `user`")
    );
}

#[test]
fn commands_that_cannot_start_are_refused() {
    assert_eq!(line(&["{}"]).of_object("{}").unwrap_err(), ItemError::NoProgram);
    assert_eq!(line(&["{}"]).of_object(r#"{"args": [""]}"#).unwrap_err(), ItemError::NoProgram);
    let nul = line(&["x", "{f}"]).of_object(r#"{"f": "\u0000"}"#);
    assert_eq!(nul.unwrap_err(), ItemError::Nul { index: 1 });
    let long = vec![b'x'; ARG_BYTES_MAX];
    assert!(line(&["x"]).of(&long).is_ok());
    let error = line(&["x", "-{}"]).of(&long).unwrap_err();
    assert_eq!(error, ItemError::ArgumentTooLong { index: 1, len: ARG_BYTES_MAX + 1 });
}

fn uuid(prepared: Result<Prepared, ItemError>) -> [u8; 16] {
    prepared.unwrap().id.uuid
}

#[test]
fn identity_is_the_item_and_the_command() {
    let base = uuid(line(&["x", "{}"]).of(b"a"));
    assert_eq!(base, uuid(line(&["x", "{}"]).key("k").scope("s").of(b"a")));
    assert_ne!(base, uuid(line(&["x", "{}"]).of(b"b")));
    assert_ne!(base, uuid(line(&["x"]).of(b"a")), "another command, though the same argv");
    assert_ne!(uuid(line(&["x", "yz"]).of(b"a")), uuid(line(&["xy", "z"]).of(b"a")));
    let again = Line { again: Some("k"), ..line(&["x", "{}"]) };
    assert_ne!(base, uuid(again.of(b"a")));
    let elsewhere = Line { directory: "/elsewhere", ..line(&["x", "{}"]) };
    assert_ne!(base, uuid(elsewhere.of(b"a")), "the same name in another directory");
}

#[test]
fn the_order_of_fields_is_ignored() {
    let line = line(&["x"]);
    let base = uuid(line.of_object(r#"{"args": ["a"], "m": {"p": 1, "q": [2, {}]}}"#));
    assert_eq!(base, uuid(line.of_object(r#"{"m": {"q": [2, {}], "p": 1}, "args": ["a"]}"#)));
    assert_ne!(base, uuid(line.of_object(r#"{"args": ["a"], "m": {"p": 1, "q": [{}, 2]}}"#)));
    assert_ne!(base, uuid(line.of_object(r#"{"args": ["a"], "m": {"p": "1", "q": [2, {}]}}"#)));
}

#[test]
fn an_id_stands_for_everything() {
    let base = uuid(line(&["x"]).of_object(r#"{"id": "7", "args": ["a"]}"#));
    assert_eq!(base, uuid(line(&["y"]).of_object(r#"{"id": 7}"#)));
    let places = ["x", "y"].map(|command| line(&[command]).of_object(r#"{"id": 7}"#).unwrap().id);
    assert_eq!(places[0], places[1], "the same entry under another command");
    assert_ne!(base, uuid(line(&["x"]).of_object(r#"{"id": "8", "args": ["a"]}"#)));
    assert_eq!(line(&["x"]).of_object(r#"{"id": ""}"#).unwrap_err(), ItemError::EmptyId);
}

/// These bytes are in users' data directories: a change makes every finished item run again.
#[test]
fn identities_are_pinned() {
    let hex = |uuid: [u8; 16]| uuid.map(|byte| format!("{byte:02x}")).concat();
    let object = r#"{"args": ["a", "b"], "n": 1, "t": true, "m": {"k": null}}"#;
    let items = [
        line(&["sha256sum", "{}"]).of(b"a/b").unwrap(),
        line(&["x"]).of_object(object).unwrap(),
        line(&["x"]).of_object(r#"{"id": "7"}"#).unwrap(),
    ];
    let pinned = [
        "af659f617a2cf35d700c5fa6b38211cc",
        "45f4927b039297b652fe8c2f3206c00b",
        "fccd6c03047912628f6ccf267fcd86fa",
    ];
    assert_eq!(items.clone().map(|item| hex(item.id.uuid)), pinned);
    // Identities of versions without runs.
    let before = [
        "871c9574a412be4d89f48d94b6c67461",
        "2335c3177d549babe819b0e3e0eda22d",
        "85f7598c2898e238732c651427071557",
    ];
    assert_eq!(items.map(|item| hex(item.before.unwrap().uuid)), before);
}

proptest! {
    /// The payload holds any bytes.
    #[test]
    fn jobs_round_trip(
        argv in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..16), 0..6),
        directory in prop::collection::vec(any::<u8>(), 0..16),
        number: u64,
    ) {
        let argv = argv.into_iter().map(Bytes::from).collect();
        let job = Job { argv, directory: Bytes::from(directory), number, ..Job::default() };
        prop_assert_eq!(Job::decode(job.encode_to_bytes()).unwrap(), job);
    }

    /// Different items are different entries, the same are the same.
    #[test]
    fn identities_tell_items_apart(
        items in prop::collection::vec(prop::collection::vec(1_u8..=255, 0..5), 1..40),
    ) {
        let line = line(&["x", "{}"]);
        let mut seen: HashMap<[u8; 16], Vec<u8>> = HashMap::new();
        for item in items {
            let first = seen.entry(uuid(line.of(&item))).or_insert_with(|| item.clone());
            prop_assert_eq!(&*first, &item);
        }
    }
}
