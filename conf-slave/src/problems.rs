//! Current outages. The start and the end of each are logged once.

use std::collections::BTreeMap;

use parking_lot::Mutex;
use tokio::sync::watch;

/// Different messages of one outage that are logged, so that an outage whose message keeps changing
/// does not fill the log.
const MOST_LOGGED: usize = 8;

/// The topic of a central repository whose newest snapshot is older than this slave's.
pub(crate) const CENTRAL_HISTORY: &str = "central history";
/// The topic of a snapshot that this slave fetched and does not serve.
pub(crate) const REFUSED_SNAPSHOT: &str = "refused snapshot";

/// The outages of this moment, by topic.
#[derive(Debug, Default)]
pub(crate) struct Problems {
    outages: Mutex<BTreeMap<&'static str, Outage>>,
    changed: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct Outage {
    message: String,
    logged: Vec<String>,
}

impl Problems {
    /// Begins an outage, or replaces its message.
    pub(crate) fn set(&self, topic: &'static str, message: impl Into<String>) {
        let message = message.into();
        let mut outages = self.outages.lock();
        let outage = outages.entry(topic).or_default();
        if !outage.logged.contains(&message) && outage.logged.len() < MOST_LOGGED {
            tracing::warn!(topic, "{message}");
            outage.logged.push(message.clone());
        }
        if outage.message != message {
            outage.message = message;
            self.changed.send_replace(());
        }
    }

    /// Ends an outage, and logs `message` if there was one.
    pub(crate) fn clear(&self, topic: &'static str, message: &str) {
        if self.outages.lock().remove(topic).is_some() {
            tracing::info!(topic, "{message}");
            self.changed.send_replace(());
        }
    }

    /// Begins or replaces an outage if there is a `message`, and ends it with the message `end` if
    /// not.
    pub(crate) fn report(&self, topic: &'static str, message: Option<String>, end: &str) {
        match message {
            Some(message) => self.set(topic, message),
            None => self.clear(topic, end),
        }
    }

    /// Lists every outage, for the status.
    pub(crate) fn list(&self) -> Vec<String> {
        self.outages.lock().iter().map(|(topic, outage)| format!("{topic}: {}", outage.message)).collect()
    }

    /// Subscribes to the beginnings, changes and ends of outages.
    pub(crate) fn subscribe(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Says why this slave refuses the history of the central server, if it does.
    pub(crate) fn refused_history(&self) -> Option<String> {
        self.get(CENTRAL_HISTORY).or_else(|| self.get(REFUSED_SNAPSHOT))
    }

    /// Returns the message of one outage.
    pub(crate) fn get(&self, topic: &'static str) -> Option<String> {
        self.outages.lock().get(topic).map(|outage| outage.message.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_is_listed_until_it_ends() {
        let problems = Problems::default();
        problems.set("consul", "away");
        problems.set("consul", "denied");
        assert_eq!(problems.list(), ["consul: denied"]);
        problems.clear("consul", "back");
        assert_eq!(problems.get("consul"), None);
    }

    #[test]
    fn changes_of_outages_are_heard_once() {
        let problems = Problems::default();
        let mut changed = problems.subscribe();
        let mut heard = || {
            let heard = changed.has_changed().unwrap();
            changed.mark_unchanged();
            heard
        };
        problems.clear(REFUSED_SNAPSHOT, "well");
        assert!(!heard(), "there was no outage");
        problems.set(REFUSED_SNAPSHOT, "another history");
        assert!(heard());
        assert_eq!(problems.refused_history().as_deref(), Some("another history"));
        problems.set(REFUSED_SNAPSHOT, "another history");
        assert!(!heard());
        problems.clear(REFUSED_SNAPSHOT, "well");
        assert!(heard());
        assert_eq!(problems.refused_history(), None);
    }
}
