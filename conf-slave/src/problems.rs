//! What is wrong right now: every outage is said once, in words, and so is its end.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

/// So many different words of one outage are logged; an outage that keeps changing its words does not fill the log.
const MOST_WORDS: usize = 8;

/// The outages of this moment, by topic.
#[derive(Debug, Default)]
pub struct Problems(Mutex<BTreeMap<&'static str, Outage>>);

#[derive(Debug, Default)]
struct Outage {
    now: String,
    said: Vec<String>,
}

impl Problems {
    /// Something about `topic` is wrong.
    pub fn set(&self, topic: &'static str, words: impl Into<String>) {
        let words = words.into();
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let outage = all.entry(topic).or_default();
        if !outage.said.contains(&words) && outage.said.len() < MOST_WORDS {
            tracing::warn!(topic, "{words}");
            outage.said.push(words.clone());
        }
        outage.now = words;
    }

    /// Nothing about `topic` is wrong; `words` are said when something was.
    pub fn clear(&self, topic: &'static str, words: &str) {
        if self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(topic).is_some() {
            tracing::info!(topic, "{words}");
        }
    }

    /// All of them, for the status.
    pub fn list(&self) -> Vec<String> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().map(|(topic, outage)| format!("{topic}: {}", outage.now)).collect()
    }

    /// What is wrong about `topic`.
    pub fn get(&self, topic: &'static str) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(topic).map(|outage| outage.now.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_is_there_until_it_ends() {
        let problems = Problems::default();
        problems.set("consul", "away");
        problems.set("consul", "denied");
        assert_eq!(problems.list(), ["consul: denied"]);
        problems.clear("consul", "back");
        assert_eq!(problems.get("consul"), None);
    }
}
