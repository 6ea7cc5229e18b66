//! Events.

use forebay_api::{Event, EventKind};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{OutcomeName, Time};

/// Which events to follow.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct EventsQuery {
    /// Only these kinds, separated by commas: `started`, `ended`, `rules`, `leader`.
    pub(crate) kinds: Option<String>,
    /// Only of entries of this service.
    pub(crate) service: Option<String>,
    /// Only of entries of this scope.
    pub(crate) scope: Option<String>,
}

/// The data of an event. The name of the event is its kind; after `reset` the reader has missed
/// events and reads again what it shows.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct EventBody {
    /// When.
    at: Time,
    /// The entry.
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    /// The handler that runs it.
    #[serde(skip_serializing_if = "Option::is_none")]
    service: Option<String>,
    /// Its scope.
    #[serde(skip_serializing_if = "Option::is_none")]
    scope: Option<String>,
    /// Its limit key.
    #[serde(skip_serializing_if = "Option::is_none")]
    limit_key: Option<String>,
    /// Number of the attempt that started, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    attempt: Option<u32>,
    /// How the entry ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    outcome: Option<OutcomeName>,
    /// The partition.
    #[serde(skip_serializing_if = "Option::is_none")]
    partition: Option<u32>,
    /// The version of the rule book.
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<u64>,
    /// The role of the replica here.
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<String>,
    /// The leader's epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    epoch: Option<u64>,
}

impl From<&Event> for EventBody {
    fn from(event: &Event) -> Self {
        let entry = event.kind.entry();
        let mut body = Self {
            at: Time(event.at),
            id: entry.map(|entry| entry.id.to_string()),
            service: entry.and_then(|entry| entry.service.clone()),
            scope: entry.and_then(|entry| entry.scope.clone()),
            limit_key: entry.and_then(|entry| entry.limit_key.clone()),
            attempt: None,
            outcome: None,
            partition: None,
            version: None,
            role: None,
            epoch: None,
        };
        match &event.kind {
            EventKind::Started { attempt, .. } => body.attempt = Some(*attempt),
            EventKind::Ended { outcome, .. } => body.outcome = Some((*outcome).into()),
            EventKind::Rules { partition, version } => {
                body.partition = Some(partition.0);
                body.version = Some(*version);
            }
            EventKind::Leader { partition, role, epoch } => {
                body.partition = Some(partition.0);
                body.role = Some(role.to_string());
                body.epoch = *epoch;
            }
            _ => {}
        }
        body
    }
}

/// The kinds of events and conditions on their entries.
#[derive(Clone, Debug)]
pub(crate) struct EventFilter {
    kinds: Option<Vec<String>>,
    service: Option<String>,
    scope: Option<String>,
}

impl EventFilter {
    /// # Errors
    /// With the text for a kind that does not exist.
    pub(crate) fn of(query: EventsQuery) -> Result<Self, String> {
        let kinds: Option<Vec<String>> =
            query.kinds.map(|kinds| kinds.split(',').map(str::to_owned).collect());
        let known = ["started", "ended", "rules", "leader"];
        if let Some(kind) = kinds.iter().flatten().find(|kind| !known.contains(&kind.as_str())) {
            return Err(format!("`{kind}` is no kind of event: there are {}", known.join(", ")));
        }
        Ok(Self { kinds, service: query.service, scope: query.scope })
    }

    /// Whether every event matches.
    pub(crate) fn is_all(&self) -> bool {
        self.kinds.is_none() && self.service.is_none() && self.scope.is_none()
    }

    pub(crate) fn matches(&self, kind: &EventKind) -> bool {
        let wants = |wanted: &Option<String>, found: Option<&String>| {
            wanted.as_ref().is_none_or(|wanted| found == Some(wanted))
        };
        let entry = kind.entry();
        self.kinds.as_ref().is_none_or(|kinds| kinds.iter().any(|one| one == kind.name()))
            && wants(&self.service, entry.and_then(|entry| entry.service.as_ref()))
            && wants(&self.scope, entry.and_then(|entry| entry.scope.as_ref()))
    }
}
