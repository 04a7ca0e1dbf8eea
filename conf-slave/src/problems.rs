//! Current outages. The start and the end of each are logged once.

use std::collections::BTreeMap;

use parking_lot::Mutex;

/// Different messages of one outage that are logged, so that an outage whose message keeps changing
/// does not fill the log.
const MOST_LOGGED: usize = 8;

/// The outages of this moment, by topic.
#[derive(Debug, Default)]
pub(crate) struct Problems(Mutex<BTreeMap<&'static str, Outage>>);

#[derive(Debug, Default)]
struct Outage {
    message: String,
    logged: Vec<String>,
}

impl Problems {
    /// Begins an outage, or replaces its message.
    pub(crate) fn set(&self, topic: &'static str, message: impl Into<String>) {
        let message = message.into();
        let mut outages = self.0.lock();
        let outage = outages.entry(topic).or_default();
        if !outage.logged.contains(&message) && outage.logged.len() < MOST_LOGGED {
            tracing::warn!(topic, "{message}");
            outage.logged.push(message.clone());
        }
        outage.message = message;
    }

    /// Ends an outage, and logs `message` if there was one.
    pub(crate) fn clear(&self, topic: &'static str, message: &str) {
        if self.0.lock().remove(topic).is_some() {
            tracing::info!(topic, "{message}");
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
        self.0.lock().iter().map(|(topic, outage)| format!("{topic}: {}", outage.message)).collect()
    }

    /// Returns the message of one outage.
    pub(crate) fn get(&self, topic: &'static str) -> Option<String> {
        self.0.lock().get(topic).map(|outage| outage.message.clone())
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
}
