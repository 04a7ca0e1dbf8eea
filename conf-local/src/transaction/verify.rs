//! Finding all damage in repository, export and places, by reading everything.

use std::collections::BTreeSet;

use conf_core::{daemon::chain, render, snapshot::Snapshot, template};
use libconf::name::{CommitId, ComponentVersion};

use crate::{
    export::{Seen, changed_words},
    snapshot::{Checked, SecretReader},
    state::VerifyReport,
    transaction::{error::TransactionError, host::Host, look::Damage},
};

impl Host {
    /// True if the export holds exactly the components that it should, undamaged. Needs the model.
    pub(crate) fn is_whole(&mut self) -> bool {
        if !self.export.damaged().is_empty() {
            return false;
        }
        let (Some(model), Some((_, kept))) = (&self.model, self.export.current()) else { return false };
        let Some(header) = &kept.header else { return false };
        kept.contents.keys().all(|name| model.accounts_for(name, &header.faults))
            && model.inputs.keys().all(|name| kept.contents.contains_key(name) || header.faults.contains_key(name))
    }

    /// Checks that nothing has changed this host's disk, that the repository has every object of
    /// the exported snapshot, and that the export is equal to a new rendering. Mends nothing.
    pub(crate) fn verify(&mut self) -> VerifyReport {
        let mut report = VerifyReport::default();
        // Objects must be read from disk, not from memory.
        self.repository.pool.forget();
        self.export.seen = Seen::default();
        let damaged = self.export.damaged();
        let Some((sequence, kept)) = self.export.current() else {
            report.problems.push("nothing is exported yet".to_owned());
            return self.add_looked(report);
        };
        report.sequence = sequence;
        report.components = kept.contents.len();
        let commit = kept.header.as_ref().map(|header| header.commit);
        let problems = damaged.iter().map(changed_words).chain(self.place.problems(&self.export, &kept.contents));
        report.problems.extend(problems);
        let Some(commit) = commit else {
            report.problems.push(format!("snapshot.json of #{sequence} cannot be read"));
            return self.add_looked(report);
        };
        self.repository.set_cut_aside();
        let Checked { read, problems, .. } = self.repository.check(commit);
        report.objects = read;
        if problems.is_empty() {
            report.problems.extend(self.differs_from_rendering(commit, &damaged));
        }
        report.problems.extend(problems.into_iter().map(|problem| format!("repository: {problem}")));
        self.add_looked(report)
    }

    /// Adds what shows without reading everything, such as links, and folders that were removed.
    fn add_looked(&mut self, mut report: VerifyReport) -> VerifyReport {
        let Damage { state, export, .. } = self.look_at(usize::MAX);
        let known = std::mem::take(&mut report.problems);
        report.problems = state.into_iter().chain(export).filter(|one| !known.contains(one)).collect();
        report.problems.extend(known);
        report
    }

    /// Describes components whose link leads to something else than a new rendering.
    fn differs_from_rendering(&self, commit: CommitId, known: &BTreeSet<ComponentVersion>) -> Vec<String> {
        let compare = || -> Result<Vec<String>, TransactionError> {
            let git = self.git()?;
            let snapshot = Snapshot::verify(&git, commit, &self.keys, &self.datacenter)?;
            let model = self.read(&git, &snapshot)?;
            let Some((_, kept)) = self.export.current() else { return Ok(Vec::new()) };
            let faults = kept.header.as_ref().map(|header| header.faults.clone()).unwrap_or_default();
            let mut problems = Vec::new();
            let mut secrets = SecretReader::new(&self.identity, &git, &self.secrets, true);
            for (name, component) in &model.inputs {
                if known.contains(name) || faults.contains_key(name) {
                    continue;
                }
                let sources = model.manifests.sources(name, component);
                match render::render(&git, &sources, name, Some(&self.name), &secrets.of(&sources, &name.component)) {
                    Ok(rendered) if kept.contents.get(name) == Some(&self.export.hash(&rendered)) => {}
                    // A secret of this host has a new value, which is rendered soon.
                    Ok(_) if self.secrets.stale().contains(name) => {}
                    Ok(_) if kept.contents.contains_key(name) => {
                        problems.push(format!("the export of {name} differs from its snapshot"));
                    }
                    Ok(_) => problems.push(format!("{name} is missing in the export")),
                    Err(error) => problems.push(format!("{name} cannot be rendered: {}", chain(&error))),
                }
            }
            template::rest();
            let extra = kept.contents.keys().filter(|name| !model.accounts_for(name, &faults));
            problems.extend(extra.map(|name| format!("{name} is in the export, but not in its snapshot")));
            Ok(problems)
        };
        compare().unwrap_or_else(|error| vec![format!("repository: {}", chain(&error))])
    }
}
