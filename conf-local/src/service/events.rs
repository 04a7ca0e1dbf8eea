//! `GET /v1/events`: every switch, as it happens.

use std::collections::BTreeSet;

use conf_core::http::{self as answer, Event, Request, Response};
use http::StatusCode;
use libconf::name::{CommitId, ComponentVersion, Sequence};
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast::error::RecvError;

use crate::service::{Refusal, Service, refusal};

/// The data of an event `change`; its id is the sequence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// What is exported now.
    pub sequence: Sequence,
    /// Its snapshot.
    pub commit: CommitId,
    /// Whose rendered output changed since the event before.
    pub components: BTreeSet<ComponentVersion>,
}

impl Service {
    /// A reader that comes back with `Last-Event-ID` first gets one event for all that it missed.
    pub(crate) fn events(&self, request: &Request) -> Result<Response, Refusal> {
        let last = request.header("last-event-id").map(str::parse::<Sequence>).transpose();
        let last = last.map_err(|error| refusal(StatusCode::BAD_REQUEST, error))?;
        // Listen first, look then: a switch in between is told by either.
        let mut switches = self.agent.switches();
        let service = self.clone();
        let events = async_stream::stream! {
            let mut told = last.unwrap_or(service.agent.view().status.sequence);
            if let Some(missed) = service.since(told) {
                told = missed.sequence;
                yield event(&missed);
            }
            loop {
                let change = match switches.recv().await {
                    Ok(switch) if switch.sequence < told => continue,
                    Ok(switch) => Change {
                        sequence: switch.sequence,
                        commit: switch.commit,
                        components: switch.changed.keys().cloned().collect(),
                    },
                    // Too slow for single events: one for all of them.
                    Err(RecvError::Lagged(_)) => match service.since(told) {
                        Some(missed) => missed,
                        None => continue,
                    },
                    Err(RecvError::Closed) => return,
                };
                told = change.sequence;
                yield event(&change);
            }
        };
        Ok(answer::events(events))
    }

    /// All that changed after `told`; none when nothing did. What is not remembered any more counts as changed.
    fn since(&self, told: Sequence) -> Option<Change> {
        let view = self.agent.view();
        let exported = view.exported.as_ref().filter(|exported| exported.sequence > told)?;
        let history = self.agent.history();
        let missed = history.iter().take_while(|entry| entry.sequence > told);
        let whole = missed.clone().all(|entry| entry.changed.len() == entry.changed_count);
        let reaches_back = history.iter().any(|entry| entry.sequence <= told);
        let components = if whole && reaches_back {
            missed.flat_map(|entry| entry.changed.keys()).cloned().collect()
        } else {
            exported.components.keys().cloned().collect()
        };
        Some(Change { sequence: exported.sequence, commit: exported.commit, components })
    }
}

fn event(change: &Change) -> Event {
    Event::json("change", Some(change.sequence.to_string()), change)
}
