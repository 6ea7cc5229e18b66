//! The handle of a group, for its application.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use crate::group::{Event, GroupQueue};
use crate::identity::NodeName;
use crate::lane::links::NotSent;
use crate::wire::hello::Refusal;

use super::Net;

/// Why a group was not opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GroupError {
    /// The group is open already.
    #[error("the group is open already")]
    IsOpen,
    /// Too many groups are open.
    #[error("too many groups are open")]
    TooMany,
}

/// A group of nodes: links and heartbeats to the added peers. Dropping it ends its links.
pub struct Group {
    id: u32,
    net: Net,
    queue: Arc<GroupQueue>,
    peers: Mutex<BTreeSet<NodeName>>,
}

impl Group {
    pub(super) fn open(net: &Net, id: u32) -> Result<Self, GroupError> {
        let mut groups = net.shared.lock_groups();
        if groups.contains_key(&id) {
            return Err(GroupError::IsOpen);
        }
        if groups.len() >= net.shared.limits.groups_max {
            return Err(GroupError::TooMany);
        }
        let queue = Arc::new(GroupQueue::new(&net.shared.limits));
        groups.insert(id, Arc::clone(&queue));
        drop(groups);
        Ok(Self { id, net: net.clone(), queue, peers: Mutex::default() })
    }

    /// Its number.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Adds a link to a peer. There are sessions while both sides have added each other.
    ///
    /// # Errors
    ///
    /// See [`Net::add_peer`].
    pub fn add_peer(&self, name: &NodeName) -> Result<(), Refusal> {
        let peer = self.net.shared.peer(name)?;
        peer.add(None);
        self.peers.lock().unwrap_or_else(PoisonError::into_inner).insert(name.clone());
        peer.heartbeats.change(|lane| lane.want(self.id, Arc::clone(&self.queue)));
        peer.links.change(|lane| lane.want(self.id, Arc::clone(&self.queue)));
        peer.notice();
        Ok(())
    }

    /// Ends the link to a peer. Its messages that were not received yet are dropped, and no event
    /// reports the end here.
    pub fn remove_peer(&self, name: &NodeName) {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
        if let Some(peer) = self.net.shared.find(name) {
            peer.heartbeats.change(|lane| lane.leave(self.id));
            peer.links.change(|lane| lane.leave(self.id));
        }
    }

    /// Sends a message within a session. Never waits.
    ///
    /// # Errors
    ///
    /// [`NotSent`]; after [`NotSent::Overflow`] a [`Event::Disconnected`] follows.
    pub fn send(&self, peer: &NodeName, session: u64, body: Bytes) -> Result<(), NotSent> {
        let Some(peer) = self.net.shared.find(peer) else { return Err(NotSent::NoSession) };
        peer.links.change(|lane| lane.send(self.id, session, body))
    }

    /// Sends a heartbeat if there is a connection. It may be dropped; the oldest waiting ones are
    /// dropped first. Never waits.
    pub fn heartbeat(&self, peer: &NodeName, body: Bytes) {
        if let Some(peer) = self.net.shared.find(peer) {
            peer.heartbeats.change(|lane| lane.send(self.id, body));
        }
    }

    /// Ends a session; both sides are informed, and the next one follows.
    pub fn reset(&self, peer: &NodeName, session: u64) {
        if let Some(peer) = self.net.shared.find(peer) {
            peer.links.change(|lane| lane.reset(self.id, session));
        }
    }

    /// Waits for the next event. Cancel safe; one caller at a time.
    pub async fn next(&self) -> Event {
        self.queue.next().await
    }

    /// The next event, if there is one.
    #[must_use]
    pub fn try_next(&self) -> Option<Event> {
        self.queue.try_next()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let peers = std::mem::take(&mut *self.peers.lock().unwrap_or_else(PoisonError::into_inner));
        for peer in &peers {
            self.remove_peer(peer);
        }
        self.net.shared.lock_groups().remove(&self.id);
    }
}
