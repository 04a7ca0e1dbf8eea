//! Rendering again what was made from a secret of this host that has another value now.

use std::time::Instant;

use crate::transaction::{
    error::TransactionError,
    host::{Audience, Host},
};

impl Host {
    /// Renders the components again whose secrets have other values, and switches to them, as to a
    /// change of their content. Other components stay as they are, and nobody is told of them.
    pub(crate) fn render_secrets(&mut self, audience: &Audience) -> Result<(), TransactionError> {
        let Some(snapshot) = self.model.as_ref().map(|model| model.snapshot.clone()) else { return Ok(()) };
        self.put_in_place(&snapshot, false, Instant::now(), audience)
    }

    /// Notes which secrets the export was made from, though not from which values: they may have
    /// changed while the agent was down.
    pub(crate) fn recall_secrets(&self) {
        let Some(model) = &self.model else { return };
        let uses =
            model.inputs.keys().map(|name| (name.clone(), model.manifests.host_sources(&self.secrets.offers, name)));
        self.secrets.exported(uses.filter(|(_, uses)| !uses.is_empty()).collect());
    }
}
