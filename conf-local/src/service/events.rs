//! `GET /v1/events`: every switch, as it happens.

use std::collections::BTreeSet;

use conf_core::http::{self as answer, Event, Request};
use http::StatusCode;
use libconf::name::{CommitId, ComponentVersion, Sequence};
use serde::Serialize;
use tokio::sync::broadcast::error::RecvError;

use crate::service::{
    refusal::{Answer, refusal},
    routes::Service,
};

/// The data of an event `change`; its id is the sequence.
#[derive(Debug, Serialize)]
struct Change {
    /// The change that is exported now.
    sequence: Sequence,
    commit: CommitId,
    /// Components whose rendered output changed since the event before.
    components: BTreeSet<ComponentVersion>,
}

impl Service {
    /// A reader that comes back with `Last-Event-ID` first gets one event for everything that it
    /// missed.
    pub(crate) fn events(&self, request: &Request) -> Answer {
        let last = request.header("last-event-id").map(str::parse::<Sequence>).transpose();
        let last = last.map_err(|error| refusal(StatusCode::BAD_REQUEST, error))?;
        // Subscribes first and reads the view then, so that a switch between the two is not lost.
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
                    // The reader is too slow for single events, and gets one for all of them.
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

    /// Returns everything that changed after `told`; `None` if nothing did. If the history does not
    /// reach back so far, all components count as changed.
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
