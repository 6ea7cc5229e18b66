//! Actions on entries: which entries they apply to, and which they skip.

use bytes::Bytes;
use forebay_engine::partition::{
    apply::{Acted, Reply, Skip, check, check_can_match, spares},
    rows::{EntryRow, Stage},
};
use forebay_messages::{
    FailureKind, Outcome, Timestamp,
    command::{Command, EntryAction, EntrySelector},
};

use super::fixture::{Replica, name, new_entry, skipped, these};

#[test]
fn the_entries_of_an_action_can_be_listed_beforehand() {
    use EntryAction::{Cancel, Kill, Pause, Purge, Redrive, Resume};
    let reschedule = EntryAction::Reschedule { run_at: Timestamp(7) };
    let row = |stage| EntryRow { stage, ..EntryRow::default() };
    let stages = [Stage::Inbox, Stage::Running, Stage::Suspended, Stage::Paused];
    let checked = |action: EntryAction| stages.map(|stage| check(action, &row(stage)));
    assert_eq!(checked(Cancel), [Ok(()); 4]);
    assert_eq!(checked(Kill), [Ok(()); 4]);
    let (running, suspended) = (Err(Skip::Running), Err(Skip::Suspended));
    assert_eq!(checked(Pause), [Ok(()), running, Ok(()), Err(Skip::AlreadyPaused)]);
    let no = Err(Skip::NotPaused);
    assert_eq!(checked(Resume), [no, no, no, Ok(())]);
    assert_eq!(checked(reschedule), [Ok(()), running, suspended, Ok(())]);
    assert_eq!(checked(Purge), [Err(Skip::NotFinished); 4]);
    assert_eq!(checked(Redrive), [Err(Skip::NotFinished); 4]);
    let asked = EntryRow { cancel_requested: true, ..row(Stage::Running) };
    assert_eq!((check(Cancel, &asked), check(Kill, &asked)), (Err(Skip::AlreadyCanceled), Ok(())));
}

#[test]
fn a_redrive_by_filter_skips_entries_ended_by_people_unless_asked_for() {
    let failed = |kind| Outcome::failure(kind, "so");
    for (outcome, is_spared) in [
        (Outcome::Success(Bytes::new()), true),
        (failed(FailureKind::Canceled), true),
        (failed(FailureKind::Killed), true),
        (failed(FailureKind::Terminal), false),
        (failed(FailureKind::Exhausted), false),
    ] {
        assert_eq!(spares(EntryAction::Redrive, false, &outcome), is_spared, "{outcome:?}");
        assert!(!spares(EntryAction::Redrive, true, &outcome), "{outcome:?}");
        assert!(!spares(EntryAction::Purge, false, &outcome), "{outcome:?}");
    }
}

#[test]
fn a_filter_that_cannot_match_is_refused() {
    let refused = |action, stage, names_outcome| {
        check_can_match(action, stage, names_outcome).err().map(|refused| refused.to_string())
    };
    let live = "kill is for entries that have not ended; the filter takes others";
    assert_eq!(refused(EntryAction::Kill, Some(Stage::Finished), false).as_deref(), Some(live));
    assert_eq!(refused(EntryAction::Kill, None, true).as_deref(), Some(live));
    assert_eq!(refused(EntryAction::Kill, Some(Stage::Paused), false), None);
    let ended = "purge is for entries that have ended; the filter takes others";
    assert_eq!(refused(EntryAction::Purge, Some(Stage::Inbox), false).as_deref(), Some(ended));
    assert_eq!(refused(EntryAction::Purge, Some(Stage::Finished), true), None);
    assert_eq!(refused(EntryAction::Redrive, None, false), None);
}

#[test]
fn service_families_and_impossible_limit_keys_match_nothing_in_a_record() {
    let mut replica = Replica::new();
    replica.enqueue(1, new_entry(3, 3));
    let service = name(3).service;
    for selector in [
        EntrySelector { service: Some(format!("{service}.*").into()), ..these(&[3]) },
        EntrySelector { limit_key: Some("".into()), ..these(&[3]) },
        EntrySelector { limit_key: Some("x/".into()), ..these(&[3]) },
        EntrySelector { limit_key: Some("x/y/z".into()), ..these(&[3]) },
    ] {
        let reply = replica.run(2, Command::Kill(selector.clone()));
        assert_eq!(reply, skipped(3, Skip::NoMatch), "{selector:?}");
    }
    let exact = EntrySelector { service: Some(service), ..these(&[3]) };
    let expected = Reply::Acted(Acted { changed: 1, skipped: Vec::new() });
    assert_eq!(replica.run(3, Command::Kill(exact)), expected);
}
