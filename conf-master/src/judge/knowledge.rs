//! What a judge knows, and what it asks of one datacenter.

use std::collections::BTreeSet;
use std::sync::Arc;

use git2::Repository;
use libconf::name::{ComponentVersion, DatacenterName};

use crate::catalog::{Contents, Datacenter, DatacenterChange, Delta, OverridesCache};
use crate::fault::Findings;
use crate::judge::compatibility::branch::Comparisons;
use crate::judge::compatibility::{pins, settings};
use crate::judge::effort::Effort;
use crate::judge::reporting::ReportingHosts;
use crate::judge::rights::Authority;
use crate::judge::validate::{ChangeLimits, Validator};
use crate::judge::{hosts, offered};
use crate::secrets::SecretStore;
use crate::store::RefChanges;

/// Judges changes, and remembers what was good.
#[derive(Debug)]
pub(crate) struct Judge {
    /// Checks the datacenters.
    pub(crate) validator: Validator,
    /// Compares the schemas of branches.
    pub(crate) comparisons: Comparisons,
    /// Keeps the sealed secrets, and knows which have values.
    pub(crate) secrets: Arc<SecretStore>,
    /// The overrides of the trees that were read.
    pub(crate) overrides: Arc<OverridesCache>,
    /// What was read of classes and components.
    pub(crate) contents: Arc<Contents>,
    /// The hosts that report.
    pub(crate) reporting: ReportingHosts,
    /// What may be used.
    pub(crate) effort: Arc<Effort>,
    /// Who asks.
    pub(crate) authority: Authority,
}

impl Judge {
    /// Makes a judge that remembers nothing yet.
    pub(crate) fn new(limits: ChangeLimits, secrets: SecretStore, reporting: ReportingHosts) -> Self {
        Judge {
            validator: Validator::new(limits),
            comparisons: Comparisons::default(),
            secrets: Arc::new(secrets),
            overrides: Arc::default(),
            contents: Arc::default(),
            reporting,
            effort: Arc::new(Effort::own()),
            authority: Authority::unlimited(),
        }
    }

    /// Returns a judge that asks processes of its own about schemas, and so waits for the answer to
    /// nobody else's question. Both remember what was good.
    pub(crate) fn beside(&self) -> Self {
        Judge {
            validator: self.validator.beside(),
            comparisons: self.comparisons.beside(),
            secrets: self.secrets.clone(),
            overrides: self.overrides.clone(),
            contents: self.contents.clone(),
            reporting: self.reporting.clone(),
            effort: self.effort.clone(),
            authority: self.authority.clone(),
        }
    }

    /// Returns the same judge, for one push of somebody.
    pub(crate) fn with(&self, effort: &Arc<Effort>, authority: Authority) -> Self {
        Judge {
            validator: self.validator.with(effort),
            comparisons: self.comparisons.with(effort.clone()),
            secrets: self.secrets.clone(),
            overrides: self.overrides.clone(),
            contents: self.contents.clone(),
            reporting: self.reporting.clone(),
            effort: effort.clone(),
            authority,
        }
    }

    /// Checks one datacenter.
    pub(crate) fn datacenter(
        &self,
        repo: &Repository,
        name: &DatacenterName,
        (before, delta): (Option<&Datacenter>, &Delta),
        changes: &RefChanges,
        may_shrink: bool,
    ) -> Result<Findings, git2::Error> {
        let change = DatacenterChange::new(repo, &self.overrides, name, before, delta)?;
        let Some(change) = change else { return Ok(Findings::default()) };
        let mut found = self.validator.findings(repo, &change, may_shrink)?;
        found.add(pins::compare(repo, &self.comparisons, &change, changes)?);
        found.add(settings::compare(repo, &change, changes)?);
        found.notes.extend(self.reporting.shut_out(&change));
        found.notes.extend(offered::notes(&change, &self.reporting));
        Ok(found)
    }

    /// Counts the components and hosts for which `delta` changes something; `readers` are the
    /// components whose secrets are sealed anew.
    pub(crate) fn summary(
        &self,
        repo: &Repository,
        name: &DatacenterName,
        before: Option<&Datacenter>,
        delta: &Delta,
        readers: BTreeSet<ComponentVersion>,
    ) -> Result<String, git2::Error> {
        let change = DatacenterChange::new(repo, &self.overrides, name, before, delta)?;
        change.map_or_else(|| Ok(String::new()), |change| hosts::summary(repo, &change, readers))
    }
}
