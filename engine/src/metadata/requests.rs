//! Remembered requests: a request that is sent again gets its first outcome.
//!
//! Must always hold: a request is applied at most once. Evicted requests are known by two numbers:
//! per client the end of the evicted requests, and over all evicted clients the latest index at
//! which one of them started. A request that may have been evicted is refused, never applied.

use std::collections::BTreeMap;

use crate::consensus::{DecodeError, Put, Reader};

use super::command::{ClientId, Command};
use super::state::Outcome;

/// Remembered clients.
pub const CLIENTS_MAX: usize = 10_000;
/// Remembered requests per client.
pub const CLIENT_REQUESTS_MAX: usize = 1024;
/// Remembered requests of all clients.
pub const REQUESTS_MAX: usize = 65_536;

const CLIENT_BYTES_MIN: usize = 44;
const REQUEST_BYTES_MIN: usize = 9;

/// The known state of a request.
pub(super) enum Known {
    /// It was not applied.
    New,
    /// It was applied, with this outcome.
    Applied(Outcome),
    /// It may have been applied.
    Evicted,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Client {
    since: u64,
    /// Index of its last request.
    used: u64,
    /// Requests below this number may be evicted.
    evicted_before: u64,
    requests: BTreeMap<u64, Outcome>,
}

/// The table of requests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Requests {
    clients: BTreeMap<ClientId, Client>,
    /// Clients by their last request: derived.
    by_use: BTreeMap<(u64, ClientId), ()>,
    /// Remembered requests of all clients: derived.
    count: usize,
    /// The latest start of an evicted client, plus one; 0 when none was evicted.
    evicted_before: u64,
}

impl Requests {
    pub(super) fn look(&self, command: &Command) -> Known {
        let Some(client) = self.clients.get(&command.client) else {
            let may_be_evicted = command.since < self.evicted_before;
            return if may_be_evicted { Known::Evicted } else { Known::New };
        };
        match client.requests.get(&command.request) {
            Some(outcome) => Known::Applied(outcome.clone()),
            None if command.request < client.evicted_before => Known::Evicted,
            None => Known::New,
        }
    }

    /// Remembers the outcome of a request that was applied at `index`.
    pub(super) fn remember(&mut self, index: u64, command: &Command, outcome: &Outcome) {
        let (id, since) = (command.client, command.since);
        let fresh = || Client { since, used: index, evicted_before: 0, requests: BTreeMap::new() };
        let client = self.clients.entry(id).or_insert_with(fresh);
        self.by_use.remove(&(client.used, id));
        client.used = index;
        self.by_use.insert((index, id), ());
        client.requests.insert(command.request, outcome.clone());
        self.count += 1;
        if client.requests.len() > CLIENT_REQUESTS_MAX
            && let Some((request, _)) = client.requests.pop_first()
        {
            client.evicted_before = client.evicted_before.max(request + 1);
            self.count -= 1;
        }
        while self.clients.len() > CLIENTS_MAX || self.count > REQUESTS_MAX {
            self.evict_one();
        }
    }

    fn evict_one(&mut self) {
        let Some(((_, id), ())) = self.by_use.pop_first() else { return };
        let Some(client) = self.clients.remove(&id) else { return };
        self.count -= client.requests.len();
        self.evicted_before = self.evicted_before.max(client.since + 1);
    }

    /// An index at which a client may start without being taken for an evicted one.
    pub(super) fn oldest_start(&self) -> u64 {
        self.evicted_before
    }

    pub(super) fn check(&self) {
        assert_eq!(self.by_use.len(), self.clients.len(), "clients are known by their last use");
        let count: usize = self.clients.values().map(|client| client.requests.len()).sum();
        assert_eq!(count, self.count, "requests are counted");
        assert!(self.clients.len() <= CLIENTS_MAX && count <= REQUESTS_MAX, "requests are bounded");
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.put_u64(self.evicted_before);
        out.put_count(self.clients.len());
        for (id, client) in &self.clients {
            out.put_u128(id.0);
            out.put_u64(client.since);
            out.put_u64(client.used);
            out.put_u64(client.evicted_before);
            out.put_count(client.requests.len());
            for (request, outcome) in &client.requests {
                out.put_u64(*request);
                outcome.encode(out);
            }
        }
    }

    pub(super) fn read(reader: &mut Reader) -> Result<Self, DecodeError> {
        let evicted_before = reader.u64()?;
        let clients = reader.list(CLIENT_BYTES_MIN, |reader| {
            let id = ClientId(reader.u128()?);
            let (since, used, evicted_before) = (reader.u64()?, reader.u64()?, reader.u64()?);
            let requests = reader
                .list(REQUEST_BYTES_MIN, |reader| Ok((reader.u64()?, Outcome::read(reader)?)))?;
            let requests = requests.into_iter().collect();
            Ok((id, Client { since, used, evicted_before, requests }))
        })?;
        let clients: BTreeMap<_, _> = clients.into_iter().collect();
        let by_use = clients.iter().map(|(id, client)| ((client.used, *id), ())).collect();
        let count = clients.values().map(|client| client.requests.len()).sum();
        Ok(Self { clients, by_use, count, evicted_before })
    }
}
