//! The maximum size of a record, and how larger contents are handled.
//!
//! Must always hold: a client's command that does not fit is refused before it is proposed; a
//! handler's result always fits, because it is cut or replaced first. Must not know: how a log
//! stores its records.

use std::sync::Arc;

use bytes::Bytes;
use bytestring::ByteString;
use forebay_messages::{
    AttemptToken, EntryId, FailureKind, Outcome, Producer, Record, ReplyId, Timestamp,
    actor::AttemptEnd,
    command::{AfterRun, Command, Complete, NewEntry},
    record::RECORD_ROOM,
};

use super::{
    Partition, Phase,
    effect::{Answer, PartitionEffect},
    input::AppendRefusal,
};

/// Maximum length of a stored error text, in bytes, including [`CUT_MARK`]; the rest is cut.
pub const ERROR_TEXT_LEN_MAX: usize = 16 << 10;
/// Appended to an error text that was cut.
pub const CUT_MARK: &str = " … (the rest of this text was cut)";
/// Maximum length of additional bytes of an error; longer ones are left out, because a part of
/// them could not be decoded.
pub const DETAIL_LEN_MAX: usize = 1 << 20;

/// Maximum size of an entry's record in addition to its payload and its strings.
const ENTRY_FIXED_LEN: usize = 256;
/// Maximum size of a decision in a record.
const DECISION_LEN: usize = 160;
/// Maximum size of an end in addition to the handler's output.
pub(super) const END_FIXED_LEN: usize = 128;

/// The maximum size of records.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    record_len_max: usize,
}

/// Why a record is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLarge {
    /// Bytes of its record.
    pub len: usize,
    /// The maximum length.
    pub len_max: usize,
}

impl Bounds {
    pub(super) fn new(record_len_max: usize) -> Self {
        Self { record_len_max }
    }

    /// Maximum number of bytes for the contents of one record.
    pub(super) fn room(self) -> usize {
        self.record_len_max.saturating_sub(RECORD_ROOM)
    }

    /// Maximum number of decisions in one record; at least one.
    pub(super) fn decisions(self) -> usize {
        (self.room() / DECISION_LEN).clamp(1, super::DECISIONS_PER_RECORD_MAX)
    }

    /// Whether a command certainly fits, without encoding it.
    pub(super) fn surely_fits(self, command: &Command) -> bool {
        let bound = match command {
            Command::Enqueue(command) => entry_len(&command.entry),
            Command::EnqueueBatch(batch) => batch.entries.iter().map(entry_len).sum(),
            Command::UpsertRuleBook(command) => command.rule_book.len(),
            _ => return false,
        };
        bound <= self.room()
    }

    /// Refuses a record that does not fit.
    pub(super) fn check(self, record: &Record) -> Result<(), TooLarge> {
        let (len, len_max) = (record.stored_len(), self.record_len_max);
        if len <= len_max { Ok(()) } else { Err(TooLarge { len, len_max }) }
    }

    /// The part of an attempt's end that is stored: texts are cut, a detail that is too large is
    /// left out, and a result that is too large becomes a failure.
    pub(super) fn bounded(self, ended: AttemptEnd) -> AttemptEnd {
        match ended {
            AttemptEnd::Success(bytes) if bytes.len() > self.room() => AttemptEnd::Terminal {
                message: format!(
                    "the result has {} bytes; at most {} can be stored: store large data \
                     elsewhere and return a reference to it",
                    bytes.len(),
                    self.room()
                )
                .into(),
                detail: Bytes::new(),
            },
            AttemptEnd::Terminal { message, detail } => {
                let (message, detail) = self.failure(message, detail);
                AttemptEnd::Terminal { message, detail }
            }
            AttemptEnd::Canceled { message, detail } => {
                let (message, detail) = self.failure(message, detail);
                AttemptEnd::Canceled { message, detail }
            }
            AttemptEnd::Retry { message, detail, random } => {
                let (message, detail) = self.failure(message, detail);
                AttemptEnd::Retry { message, detail, random }
            }
            AttemptEnd::Run(AfterRun::ContinueWith(payload)) if payload.len() > self.room() => {
                AttemptEnd::Terminal {
                    message: format!(
                        "the input of the next run has {} bytes; at most {} can be stored",
                        payload.len(),
                        self.room()
                    )
                    .into(),
                    detail: Bytes::new(),
                }
            }
            AttemptEnd::Run(then) => AttemptEnd::Run(self.bounded_run(then)),
            other @ (AttemptEnd::Success(_)
            | AttemptEnd::Snooze { .. }
            | AttemptEnd::DeadLetter { .. }
            | AttemptEnd::GivenBack { .. }) => other,
        }
    }

    fn bounded_run(self, then: AfterRun) -> AfterRun {
        let text_max = ERROR_TEXT_LEN_MAX.min(self.room() / 2);
        match then {
            AfterRun::Pause(message) => AfterRun::Pause(cut(message, text_max)),
            AfterRun::Restart(message) => AfterRun::Restart(cut(message, text_max)),
            AfterRun::ContinueWith(payload) => AfterRun::ContinueWith(payload),
        }
    }

    fn failure(self, message: ByteString, detail: Bytes) -> (ByteString, Bytes) {
        let detail_max = DETAIL_LEN_MAX.min(self.room() / 2);
        let left_out = (detail.len() > detail_max).then(|| {
            format!(
                " (its detail of {} bytes is left out: at most {detail_max} can be stored)",
                detail.len()
            )
        });
        let text_max = ERROR_TEXT_LEN_MAX.min(self.room() / 2);
        match left_out {
            None => (cut(message, text_max), detail),
            Some(note) => {
                let message = cut(message, text_max.saturating_sub(note.len()));
                ((message.to_string() + &note).into(), Bytes::new())
            }
        }
    }
}

/// Upper bound of an entry's size in a record.
fn entry_len(entry: &NewEntry) -> usize {
    let name = &entry.vqueue;
    let of = |text: &Option<ByteString>| text.as_ref().map_or(0, |text| text.len());
    ENTRY_FIXED_LEN
        + entry.payload.len()
        + name.service.len()
        + of(&name.scope)
        + of(&name.l1)
        + of(&name.l2)
        + of(&name.object_key)
        + of(&entry.idempotency_key)
}

/// Limits a text to this many bytes; a cut one ends with [`CUT_MARK`].
fn cut(text: ByteString, len_max: usize) -> ByteString {
    if text.len() <= len_max {
        return text;
    }
    let end = text.floor_char_boundary(len_max.saturating_sub(CUT_MARK.len()));
    // A copy, because a slice would keep the whole text in memory.
    format!("{}{CUT_MARK}", &text[..end]).into()
}

impl Partition {
    /// Proposes a client's command, unless it does not fit into a record.
    pub(super) fn propose_for(
        &mut self,
        now: Timestamp,
        command: Command,
        reply: ReplyId,
        effects: &mut Vec<PartitionEffect>,
    ) {
        if self.bounds.surely_fits(&command) {
            return self.propose(now, command, Some(reply), effects);
        }
        let record = self.next_record(now, command);
        if let Err(why) = self.bounds.check(&record) {
            let answer = Answer::TooLarge(why);
            return effects.push(PartitionEffect::Answer { to: reply, answer });
        }
        self.proposals.insert(self.next_seq.0, reply);
        effects.push(PartitionEffect::Append { epoch: self.epoch, record: Arc::new(record) });
    }

    /// The log refused a record of this leader and accepted the others: the contents of this record
    /// fail, and nothing else. Proposals are bounded, so this happens only if the log's limit is
    /// lower than the one configured here.
    pub(super) fn on_record_too_large(
        &mut self,
        now: Timestamp,
        record: &Record,
        why: TooLarge,
        effects: &mut Vec<PartitionEffect>,
    ) {
        let Some(Producer::Leader(own)) = &record.producer else { return };
        if own.epoch != self.epoch || self.phase == Phase::Following {
            return;
        }
        self.drain.applied(own.seq);
        if let Some(to) = self.proposals.remove(&own.seq.0) {
            effects.push(PartitionEffect::Answer { to, answer: Answer::TooLarge(why) });
            self.tell_if_quiet(effects);
            return;
        }
        let mut ends = Vec::new();
        match &record.command {
            // However small the limit is, a failure with a short text must fit.
            Some(_) if why.len <= RECORD_ROOM => {}
            Some(Command::Complete(end)) => ends.push((end.entry, end.token)),
            Some(Command::Retry(end)) => ends.push((end.entry, end.token)),
            Some(Command::EndRun(end)) => ends.push((end.entry, end.token)),
            Some(Command::WriteJournal(writes)) => {
                ends.extend(writes.attempts.iter().map(|attempt| (attempt.entry, attempt.token)));
            }
            Some(Command::EndAttempts(both)) => {
                ends.extend(both.completed.iter().map(|end| (end.entry, end.token)));
                ends.extend(both.retried.iter().map(|end| (end.entry, end.token)));
            }
            // Its client was already answered.
            Some(
                Command::AnnounceLeader(_) | Command::SchedulerDecisions(_) | Command::Purge(_),
            )
            | None => {}
            Some(_) => return,
        }
        if ends.is_empty() {
            let TooLarge { len, len_max } = why;
            let reason = format!("a record of {len} bytes is refused by the log ({len_max} fit)");
            return self.on_append_refused(&AppendRefusal::Failed { reason }, effects);
        }
        for (entry, token) in ends {
            self.propose(now, too_large_to_end(entry, token, why), None, effects);
        }
    }
}

/// Ends an attempt whose own end the log refused.
fn too_large_to_end(entry: EntryId, token: AttemptToken, why: TooLarge) -> Command {
    let TooLarge { len, len_max } = why;
    let message = format!("the end of the attempt takes {len} bytes in the log; {len_max} fit");
    let outcome = Some(Outcome::failure(FailureKind::Terminal, &message).into());
    Command::Complete(Complete { entry, token, outcome, heeds_cancel: true })
}

#[cfg(test)]
mod tests {
    use bilrost::Message;
    use forebay_messages::{
        EntryKey, Epoch, NodeId, PartitionKey, VQueueId, VQueueName,
        command::{Decision, ExecutorId, RetryAttempt, RetryPolicy, RetryReason},
        outcome::Failure,
        vqueue::{COMPONENT_LEN_MAX, OBJECT_KEY_LEN_MAX},
    };

    use super::*;

    const MAX: usize = 64 << 10;

    fn id() -> EntryId {
        EntryId { partition_key: PartitionKey(u64::MAX), uuid: [255; 16] }
    }

    /// An entry with names of maximum length.
    fn entry(payload: usize) -> NewEntry {
        let part = "p".repeat(COMPONENT_LEN_MAX);
        let mut vqueue = VQueueName::service(&part)
            .with_scope(&part)
            .with_object_key(&"k".repeat(OBJECT_KEY_LEN_MAX));
        vqueue.set_limit_key(&format!("{part}/{part}")).unwrap();
        NewEntry {
            id: id(),
            vqueue,
            payload: vec![7; payload].into(),
            run_at: Some(Timestamp(u64::MAX)),
            idempotency_key: Some("i".repeat(512).into()),
            retry: Some(RetryPolicy {
                attempts_max: u32::MAX,
                backoff_first_ms: u64::MAX,
                backoff_max_ms: u64::MAX,
                growth_percent: u32::MAX,
                jitter_percent: u32::MAX,
            }),
            retention_ms: Some(u64::MAX),
            is_fresh: true,
            payload_hash: Some(u64::MAX),
        }
    }

    fn token() -> AttemptToken {
        AttemptToken { epoch: Epoch(u64::MAX), seq: u64::MAX }
    }

    #[test]
    fn estimates_are_upper_bounds() {
        assert!(entry(0).encoded_len() + 8 <= entry_len(&entry(0)));
        assert!(entry_len(&entry(0)) < RECORD_ROOM - 256, "a payload of `room` fits");
        let decision = Decision {
            vqueue: VQueueId { partition_key: PartitionKey(u64::MAX), hash: [255; 16] },
            key: EntryKey { run_at: Timestamp(u64::MAX), ..Default::default() },
            token: token(),
            executor: Some(ExecutorId { node: NodeId(u32::MAX), boot: u64::MAX, is_lease: true }),
        };
        assert!(decision.encoded_len() + 4 <= DECISION_LEN, "{}", decision.encoded_len());
        let retry = RetryAttempt {
            entry: id(),
            token: token(),
            reason: RetryReason::LeaderChange,
            run_at: Timestamp(u64::MAX),
            message: "m".repeat(20_000).into(),
            detail: vec![1; 20_000].into(),
            heeds_cancel: true,
            interrupted: u32::MAX,
            keeps_failure: true,
        };
        assert!(retry.encoded_len() + 8 <= END_FIXED_LEN + 40_000);
        let failure = Failure {
            kind: FailureKind::Killed,
            message: "m".repeat(20_000).into(),
            detail: vec![1; 20_000].into(),
        };
        let outcome = Some(forebay_messages::Outcome::Failure(failure).into());
        let complete = Complete { entry: id(), token: token(), outcome, heeds_cancel: true };
        assert!(complete.encoded_len() + 8 <= END_FIXED_LEN + 40_000);
    }

    #[test]
    fn long_texts_are_cut_at_a_character_boundary_and_marked() {
        let bounds = Bounds::new(64 << 20);
        let long: ByteString = "ä".repeat(ERROR_TEXT_LEN_MAX).into();
        let ended = AttemptEnd::Retry { message: long, detail: vec![1; 8].into(), random: 3 };
        let AttemptEnd::Retry { message, detail, random: 3 } = bounds.bounded(ended) else {
            panic!("another end")
        };
        assert!((ERROR_TEXT_LEN_MAX - 2..=ERROR_TEXT_LEN_MAX).contains(&message.len()));
        assert!(message.starts_with("ää") && message.ends_with(CUT_MARK));
        assert_eq!(detail.len(), 8);
        let exact: ByteString = "x".repeat(ERROR_TEXT_LEN_MAX).into();
        let ended = AttemptEnd::Terminal { message: exact, detail: Bytes::new() };
        assert_eq!(bounds.bounded(ended.clone()), ended, "a fitting end is unchanged");
    }

    #[test]
    fn a_too_large_result_or_detail_is_reported() {
        let bounds = Bounds::new(MAX);
        let fits = AttemptEnd::Success(vec![1; bounds.room()].into());
        assert_eq!(bounds.bounded(fits.clone()), fits);
        let ended = bounds.bounded(AttemptEnd::Success(vec![1; bounds.room() + 1].into()));
        let AttemptEnd::Terminal { message, .. } = ended else { panic!("it does not fit") };
        let (len, len_max) = (bounds.room() + 1, bounds.room());
        assert!(message.contains(&format!("{len} bytes; at most {len_max}")), "{message}");

        let ended = AttemptEnd::Canceled { message: "no".into(), detail: vec![1; MAX].into() };
        let AttemptEnd::Canceled { message, detail } = bounds.bounded(ended) else {
            panic!("another end")
        };
        assert!(message.starts_with("no (its detail of 65536 bytes is left out"), "{message}");
        assert!(detail.is_empty());
    }
}
