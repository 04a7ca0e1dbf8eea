//! Finding damage in repository, export and places, and mending it.

use std::{collections::BTreeSet, time::Instant};

use conf_core::{daemon::chain, render, snapshot::Snapshot, template};
use libconf::name::{CommitId, ComponentVersion};

use crate::{
    snapshot::SecretReader,
    state::VerifyReport,
    transaction::{
        error::TransactionError,
        host::{Audience, Host},
    },
};

impl Host {
    /// True if the export holds exactly the components that it should, undamaged. Needs the model.
    pub(crate) fn is_whole(&self) -> bool {
        let (Some(model), Some((_, kept))) = (&self.model, self.export.current()) else { return false };
        let Some(header) = &kept.header else { return false };
        kept.contents.keys().all(|name| model.accounts_for(name, &header.faults))
            && model.inputs.keys().all(|name| kept.contents.contains_key(name) || header.faults.contains_key(name))
            && self.export.damaged().is_empty()
    }

    /// Checks that the repository has every object of the exported snapshot, and that the export is
    /// equal to a new rendering. With `repair`, mends the export. A damaged repository is only
    /// reported.
    pub(crate) fn verify(&mut self, repair: bool, audience: &Audience) -> VerifyReport {
        let mut report = VerifyReport::default();
        // Objects must be read from disk, not from memory.
        self.repository.pool.forget();
        let Some((sequence, kept)) = self.export.current() else {
            report.problems.push("nothing is exported yet".to_owned());
            return report;
        };
        report.sequence = sequence;
        report.components = kept.contents.len();
        let commit = kept.header.as_ref().map(|header| header.commit);
        let damaged = self.export.damaged();
        report.problems.extend(damaged.iter().map(|name| format!("the files of {name} are not as they were exported")));
        report.problems.extend(self.place.problems(&self.export, &kept.contents));

        let Some(commit) = commit else {
            report.problems.push(format!("snapshot.json of #{sequence} cannot be read"));
            return report;
        };
        let (objects, problems) = self.repository.check(commit);
        report.objects = objects;
        let repository_good = problems.is_empty();
        report.problems.extend(problems.into_iter().map(|problem| format!("repository: {problem}")));
        if repository_good {
            report.problems.extend(self.differs_from_rendering(commit, &damaged));
        }
        if !repair || report.problems.is_empty() {
            return report;
        }
        if repository_good {
            let snapshot = self
                .git()
                .and_then(|git| Ok(Snapshot::verify(&git, commit, &self.keys, &self.datacenter)?))
                .and_then(|snapshot| self.put_in_place(&snapshot, true, Instant::now(), audience));
            match snapshot {
                Ok(()) => {
                    let have = self.export.current().map(|(_, kept)| kept.contents.clone()).unwrap_or_default();
                    let left = self.place.problems(&self.export, &have);
                    report.repaired = report.problems.iter().filter(|one| !left.contains(one)).cloned().collect();
                }
                Err(error) => tracing::warn!(error = %chain(&error), "the export could not be mended"),
            }
        }
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
            let mut secrets = SecretReader::new(&self.identity, &git, &self.secrets);
            for (name, component) in &model.inputs {
                if known.contains(name) || faults.contains_key(name) {
                    continue;
                }
                let sources = model.manifests.sources(name, component);
                match render::render(&git, &sources, name, Some(&self.name), &secrets.of(&sources, &name.component)) {
                    Ok(rendered) if kept.contents.get(name) == Some(&self.export.hash(&rendered)) => {}
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

    /// Replaces a damaged repository by an empty one. True if it was damaged.
    pub(crate) fn heal(&mut self) -> anyhow::Result<bool> {
        self.repository.pool.forget();
        let damaged = match &self.newest {
            Some((snapshot, _)) => !self.repository.check(snapshot.commit).1.is_empty(),
            None => true,
        };
        if damaged {
            tracing::warn!(
                path = %self.repository.pool.path().display(),
                "the repository is damaged; it is set aside and fetched anew, the exported files stay in use"
            );
            self.repository.begin_anew()?;
            // The export still knows the newest snapshot that was taken.
            self.newest = None;
        }
        Ok(damaged)
    }
}
