//! How following fares, as the status shows it and the log says it once.

use conf_core::api::HostState;

use crate::transaction::Audience;

impl Audience {
    /// Something cannot be reached, or is damaged: said once, shown until it is back.
    pub(crate) fn away(&self, what: &str, words: impl Into<String>) {
        let words: String = words.into();
        let mut new = false;
        self.agent.update(|view| {
            new = !view.status.away.contains_key(what);
            view.status.away.insert(what.to_owned(), words.clone());
            if view.exported.is_none() && view.status.state == HostState::Updating {
                view.status.error = Some(words.clone());
            }
        });
        if new {
            tracing::warn!(what, reason = words, "away; what is exported stays in use");
        }
    }

    /// It is back.
    pub(crate) fn back(&self, what: &str) {
        if !self.agent.view().status.away.contains_key(what) {
            return;
        }
        self.agent.update(|view| drop(view.status.away.remove(what)));
        tracing::info!(what, "back");
    }

    /// The wanted snapshot is known and on its way.
    pub(crate) fn updating(&self) {
        self.agent.update(|view| {
            // A retry is no new state: why it failed stays visible.
            if view.status.state == HostState::Current {
                view.status.state = HostState::Updating;
            }
        });
    }

    /// What the pointer names is exported.
    pub(crate) fn current(&self) {
        self.agent.update(|view| view.status.settle());
    }

    /// The wanted snapshot could not be taken; said once.
    pub(crate) fn failed(&self, words: impl Into<String>) {
        let words: String = words.into();
        let mut new = false;
        self.agent.update(|view| {
            new = view.status.error.as_ref() != Some(&words) || view.status.state != HostState::Failed;
            view.status.state = HostState::Failed;
            view.status.error = Some(words.clone());
        });
        if new {
            tracing::warn!(reason = words, "the wanted snapshot is not in place; what is exported stays in use");
        }
    }
}
