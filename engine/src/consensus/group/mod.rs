//! The machine of one group at one member.
//!
//! Owns: the current segment and its instance, links and sessions, writes in flight, pending
//! requests. Must always hold: a promise or an acceptance is sent only after all earlier writes are
//! durable; the leader counts itself only then, too; an entry is reported as decided only when it
//! is durable here; every request gets exactly one answer. Must not know: how its effects are
//! performed.

mod copy;
mod decide;
mod instance;
mod links;
mod open;
mod propose;
mod roll;
mod watch;

use std::collections::{BTreeMap, VecDeque};
use std::fmt;

use forebay_messages::Timestamp;
use omnipaxos::OmniPaxos;
use omnipaxos::messages::Message;

use crate::machine::Machine;

use super::chain::{Segment, StorageId};
use super::entry::Entry;
use super::input::{Effect, Input, Leadership, Term};
use super::limits::Limits;
use super::message::Standing;
use super::rows::Identity;
use super::store::{Durable, Store};

pub use open::OpenError;

/// One member of one group; made by [`Group::open`].
pub struct Group {
    identity: Identity,
    limits: Limits,
    /// Kept segments; the last one is the current one.
    segments: VecDeque<Segment>,
    seat: Role,
    store: Store,
    durable: Durable,
    links: BTreeMap<StorageId, links::Link>,
    peers: links::Memories,
    /// Ticks since it was opened.
    now: u64,
    /// Next decided entry to process; everything below is durable and was reported.
    walked: u64,
    /// Position that the driver had applied when the group was opened: not reported again below it.
    skip_below: u64,
    requests: propose::Requests,
    copy: Option<copy::Copying>,
    learners: BTreeMap<StorageId, copy::Learner>,
    watch: watch::Watch,
    /// The term in which this member leads.
    term: Option<Term>,
    reported: Leadership,
    /// Enough members have accepted this one since it was opened.
    is_welcomed: bool,
    /// The round of heartbeats of the instance.
    heartbeat_round: u32,
    /// Until this tick, the election of a fresh segment waits for the member that sealed the
    /// previous one.
    fresh_until: Option<u64>,
    /// Until this tick, a roll keeps the leadership although the new segment has no leader yet.
    rolling_until: Option<u64>,
    /// Until this tick, nothing is proposed because another member was asked to lead.
    handing_over_until: Option<u64>,
    /// Number of messages that did not match this group.
    dropped: u64,
    effects: Vec<Effect>,
    /// The crate's outgoing messages; the buffer is kept between calls.
    scratch: Vec<Message<Entry>>,
}

/// The role of this member in the current segment.
enum Role {
    /// The only member: a plain log.
    Solo,
    /// A voting member.
    Votes(Box<OmniPaxos<Entry, Store>>),
    /// Votes once this write, the start of the segment, is durable.
    Starting(u64),
    /// Copies decided entries; has no vote.
    Follows,
}

impl Machine for Group {
    type Input = Input;
    type Effect = Effect;

    fn start(&mut self, _now: Timestamp, effects: &mut Vec<Effect>) {
        self.follow_up();
        effects.append(&mut self.effects);
    }

    fn step(&mut self, _now: Timestamp, input: Input, effects: &mut Vec<Effect>) {
        self.take(input);
        self.follow_up();
        effects.append(&mut self.effects);
    }

    fn check(&self) {
        let mirror = self.store.get();
        assert!(mirror.decided <= mirror.end(), "decided entries were accepted");
        assert!(self.walked <= mirror.decided, "only decided entries are reported");
        assert!(self.walked <= self.durable.end(), "only durable entries are reported");
        assert!(
            mirror.seal().is_none_or(|seal| seal + 1 == mirror.end()),
            "nothing follows a seal: {self:?}"
        );
        assert!(self.term.is_some() || self.requests.is_empty(), "only a leader has requests");
        let held_max = self.limits.held_messages_max;
        assert!(
            self.links.values().all(|link| link.held() <= 2 * held_max),
            "held messages have a limit"
        );
    }
}

impl Group {
    fn take(&mut self, input: Input) {
        match input {
            Input::Tick => self.tick(),
            Input::Connected { peer, session } => self.connected(peer, session),
            Input::Disconnected { peer } => self.disconnected(peer),
            Input::Message(envelope) => self.receive(*envelope),
            Input::Progress { peer } => self.progressed(peer),
            Input::Persisted { upto } => {
                self.durable.sync(upto);
                self.release();
            }
            Input::Propose { request, block } => self.propose(request, block),
            Input::Read { request } => self.read(request),
            Input::Roll { request, members, version } => self.roll(request, &members, version),
            Input::HandOver { to } => self.hand_over(to),
            Input::Applied { index } => self.applied(index),
            Input::Rows { to, session, first, rows } => self.serve(to, session, first, rows),
            Input::DropBelow { index } => self.drop_below(index),
        }
    }

    /// Performs everything that follows from an input.
    fn follow_up(&mut self) {
        loop {
            self.admit_held();
            self.start_segment();
            self.update_leadership();
            self.propose_barrier();
            self.roll_when_full();
            self.persist();
            if !self.walk() {
                break;
            }
        }
    }

    /// The current segment.
    #[must_use]
    pub fn segment(&self) -> &Segment {
        self.segments.back().expect("a group has a current segment")
    }

    /// Number of entries of the group that are decided and durable here.
    #[must_use]
    pub fn decided(&self) -> u64 {
        self.walked
    }

    /// End of the entries accepted here, durable or not.
    #[must_use]
    pub fn accepted(&self) -> u64 {
        self.store.get().end()
    }

    /// End of the durable entries.
    #[must_use]
    pub fn durable(&self) -> u64 {
        self.durable.end()
    }

    /// The term in which this member leads.
    #[must_use]
    pub fn term(&self) -> Option<Term> {
        self.term
    }

    /// Whether it votes in the current segment.
    #[must_use]
    pub fn votes(&self) -> bool {
        matches!(self.seat, Role::Votes(_) | Role::Solo)
    }

    /// Whether there is a session with this peer, and its hello was accepted.
    #[must_use]
    pub fn talks_to(&self, peer: StorageId) -> bool {
        self.links.get(&peer).is_some_and(|link| link.is_up)
    }

    /// The leader, as far as this member knows.
    #[must_use]
    pub fn leader(&self) -> Option<StorageId> {
        match self.reported {
            Leadership::Leads(_) => Some(self.me()),
            Leadership::Follows(leader) => leader,
        }
    }

    /// The end of the durable entries of a peer, as last reported; `None` without a link.
    #[must_use]
    pub fn position_of(&self, peer: StorageId) -> Option<u64> {
        let link = self.links.get(&peer).filter(|link| link.is_up)?;
        let learner = self.learners.get(&peer).map_or(0, |learner| learner.durable);
        Some(learner.max(link.accepted).max(link.standing.accepted))
    }

    /// Number of messages that did not match this group, since it was opened.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Bytes of entries that are kept in memory.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        let copied = self.copy.as_ref().map_or(0, copy::Copying::weight);
        self.store.get().weight() + copied
    }

    /// The position of the storage.
    #[must_use]
    pub fn standing(&self) -> Standing {
        self.durable.standing()
    }

    fn me(&self) -> StorageId {
        self.identity.me.storage
    }

    fn emit(&mut self, effect: Effect) {
        self.effects.push(effect);
    }
}

impl fmt::Debug for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mirror = self.store.get();
        let seat = match &self.seat {
            Role::Solo => "solo".to_owned(),
            Role::Votes(instance) => format!("votes, {:?}", instance.get_current_leader()),
            Role::Starting(after) => format!("starting after {after}"),
            Role::Follows => "follows".to_owned(),
        };
        f.debug_struct("Group")
            .field("me", &self.identity.me)
            .field("segment", &self.segment().number)
            .field("base", &mirror.base())
            .field("seat", &seat)
            .field("reported", &self.walked)
            .field("decided", &mirror.decided)
            .field("durable", &self.durable.end())
            .field("accepted", &mirror.end())
            .field("promise", &mirror.promise)
            .field("term", &self.term)
            .field("copying", &self.copy.as_ref().map(|copy| copy.peer))
            .field("links", &self.links)
            .finish_non_exhaustive()
    }
}
