//! All entries of `export:`, and what is placed by them.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
};

use anyhow::bail;
use conf_core::daemon::chain;
use conf_core::git::Durability;
use libconf::name::{ComponentSelector, ComponentVersion};
use serde::{Deserialize, Serialize};

use crate::{
    export::{CURRENT, Contents, Export, Faults},
    fs::Folder,
    place::{
        copy::{self, StagedCopy},
        entry::{PlaceEntry, PlaceMode},
        exchange::{self, StagedExchange},
        journal::{Journal, PlacedFiles},
        link::{self, PlaceLink},
    },
};

/// All placements of this host.
pub(crate) struct Placements {
    pub(crate) entries: Vec<PlaceEntry>,
    pub(crate) journal: Journal,
    pub(crate) errors: BTreeMap<PathBuf, String>,
    /// The number of an entry, and its steps.
    staged: Vec<(usize, Work)>,
    /// Components that the export holds back because they could not be placed.
    held_back: BTreeSet<ComponentVersion>,
    /// The same for the switch that is being made.
    refused: BTreeSet<ComponentVersion>,
    /// What the system said of an entry's files when they were last right.
    pub(crate) seen: BTreeMap<PathBuf, u64>,
    /// The number of the entry that the next look begins with.
    pub(crate) next: usize,
}

/// The steps at one entry's path.
enum Work {
    Copy(StagedCopy),
    Exchange(StagedExchange),
    Link(PlaceLink, Option<ComponentVersion>),
}

/// The state of one entry: an element of `placements` in `GET /v1/status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlaceStatus {
    pub(crate) component: ComponentSelector,
    pub(crate) path: PathBuf,
    pub(crate) mode: PlaceMode,
    /// The number of placed files; a link counts as one.
    pub(crate) files: usize,
    /// Why the path does not hold what is exported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
}

impl Placements {
    /// Takes the entries of the configuration. Their paths are inspected when something is placed.
    /// Without entries (`None`), nothing is placed, and what was placed stays as it is.
    pub(crate) fn open(entries: Option<Vec<PlaceEntry>>, state: &Path) -> anyhow::Result<Self> {
        let mut journal = Journal::open(state);
        if let Some(entries) = &entries {
            check(entries, state)?;
            let known: BTreeSet<&PathBuf> = entries.iter().map(|entry| &entry.path).collect();
            let gone: Vec<PathBuf> = journal.paths().filter(|path| !known.contains(path)).cloned().collect();
            for path in gone {
                tracing::info!(path = %path.display(), "this host's configuration no longer places anything here; the files stay as they are");
                if let Err(error) = journal.forget(&path) {
                    tracing::warn!(%error, "the journal of placed files cannot be written");
                }
            }
        }
        Ok(Placements {
            entries: entries.unwrap_or_default(),
            journal,
            errors: BTreeMap::new(),
            staged: Vec::new(),
            held_back: BTreeSet::new(),
            refused: BTreeSet::new(),
            seen: BTreeMap::new(),
            next: 0,
        })
    }

    /// True while something is not in place, so that another attempt is worth it.
    pub(crate) fn is_troubled(&self) -> bool {
        !self.errors.is_empty() || !self.held_back.is_empty()
    }

    /// True for a component that the export holds back because it could not be placed.
    pub(crate) fn held_back(&self, component: &ComponentVersion) -> bool {
        self.held_back.contains(component)
    }

    /// Writes the files of `want` that differ beside their places. Returns the components that
    /// cannot be placed, with the reason: nothing of them is placed anywhere. If `have` is given,
    /// skips entries whose components are the same in both, unless they had an error.
    pub(crate) fn stage(&mut self, export: &Export, have: Option<&Contents>, want: &Contents) -> Faults {
        self.staged.clear();
        let mut refused = BTreeMap::new();
        for number in 0..self.entries.len() {
            let entry = &self.entries[number];
            let same = |have: &Contents| entry.matching(have).eq(entry.matching(want));
            if have.is_some_and(same) && !self.errors.contains_key(&entry.path) {
                continue;
            }
            let matching: Vec<ComponentVersion> = entry.matching(want).map(|(one, _)| one.clone()).collect();
            let error = self.stage_one(number, export, want).err();
            if let Some(why) = &error {
                let why = format!("it cannot be placed at {}: {why}", self.entries[number].path.display());
                refused.extend(matching.into_iter().map(|component| (component, why.clone())));
            }
            self.note(number, error);
        }
        let entries = &self.entries;
        self.staged.retain(|(number, _)| entries[*number].matching(&refused).next().is_none());
        self.refused = refused.keys().cloned().collect();
        refused
    }

    fn stage_one(&mut self, number: usize, export: &Export, want: &Contents) -> Result<(), String> {
        let entry = &self.entries[number];
        let matching: Vec<&ComponentVersion> = entry.matching(want).map(|(component, _)| component).collect();
        if matching.len() > 1 {
            let versions: Vec<String> = matching.iter().map(|one| one.version.to_string()).collect();
            return Err(format!("this host runs {} of it; name one in its entry", versions.join(" and ")));
        }
        let placed = self.placed_at(entry);
        let files = files_of(entry, export, want)?;
        let work = match entry.mode {
            PlaceMode::Link => {
                let link = link::open(entry, &export.path, &placed)?;
                Some(Work::Link(link, matching.first().copied().cloned()))
            }
            PlaceMode::Copy if !exchange::clear_and_find_link(entry, &export.path, &placed)? => {
                copy::stage(entry, files.as_ref(), &placed)?.map(Work::Copy)
            }
            PlaceMode::Copy | PlaceMode::Exchange => {
                match exchange::stage(entry, &export.path, files.as_ref(), &placed) {
                    // The component is gone, and others use the folder: so the placed files go one
                    // by one.
                    Err(_) if files.is_none() => copy::stage(entry, None, &placed)?.map(Work::Copy),
                    staged => staged?.map(Work::Exchange),
                }
            }
        };
        self.staged.extend(work.map(|work| (number, work)));
        Ok(())
    }

    pub(crate) fn placed_at(&self, entry: &PlaceEntry) -> PlacedFiles {
        self.journal.at(&entry.path).cloned().unwrap_or_else(|| PlacedFiles::nothing(&entry.component))
    }

    /// Describes every path that does not hold what it should, each in one sentence. Writes
    /// nothing.
    pub(crate) fn problems(&self, export: &Export, have: &Contents) -> Vec<String> {
        self.entries.iter().flat_map(|entry| self.problems_of(entry, export, have)).collect()
    }

    /// Does the same for one entry.
    pub(crate) fn problems_of(&self, entry: &PlaceEntry, export: &Export, have: &Contents) -> Vec<String> {
        let differing = || -> Result<Vec<String>, String> {
            let (files, placed) = (files_of(entry, export, have)?, self.placed_at(entry));
            if entry.mode == PlaceMode::Link {
                let component = entry.matching(have).next();
                let right = component.map(|(component, _)| current(export, component));
                let is_right = link::leads_to(entry, right.as_deref())?;
                return Ok(if is_right { Vec::new() } else { vec![entry.path.display().to_string()] });
            }
            match entry.mode {
                PlaceMode::Exchange => exchange::differing(entry, files.as_ref(), &placed),
                _ => copy::differing(entry, files.as_ref(), &placed),
            }
        };
        match differing() {
            Ok(paths) => {
                paths.into_iter().map(|path| format!("{path} is not as {} is exported", entry.component)).collect()
            }
            Err(why) => vec![format!("{} at {}: {why}", entry.component, entry.path.display())],
        }
    }

    /// Renames the staged files of `want`. Returns the components for which that failed, with the
    /// reason: these get their files of `have` back everywhere, as far as the disk allows. Removals
    /// that failed are tried again later.
    pub(crate) fn put(&mut self, export: &Export, have: &Contents, want: &Contents) -> Faults {
        let mut failed = BTreeMap::new();
        for (number, work) in std::mem::take(&mut self.staged) {
            // `current` does not lead to the new files yet. The store holds them before and after
            // the switch.
            let stored = |one: &ComponentVersion| want.get(one).map(|hash| export.staged(hash).join("files"));
            let Err(error) = self.put_one(number, work, stored) else { continue };
            let entry = &self.entries[number];
            let why = format!("it cannot be placed at {}: {}", entry.path.display(), chain(&error));
            failed.extend(entry.matching(want).map(|(component, _)| (component.clone(), why.clone())));
            self.note(number, Some(chain(&error)));
        }
        for number in 0..self.entries.len() {
            if self.entries[number].matching(&failed).next().is_some() {
                self.restore_one(number, export, have);
            }
        }
        self.refused.extend(failed.keys().cloned());
        failed
    }

    /// Does what is possible only after the switch: links lead through `current` from now on.
    pub(crate) fn finish(&mut self, export: &Export, want: &Contents) {
        self.held_back = std::mem::take(&mut self.refused);
        for number in 0..self.entries.len() {
            if self.entries[number].mode == PlaceMode::Link {
                self.restore_one(number, export, want);
            }
        }
    }

    /// `target` returns what a link to a component leads to.
    fn put_one(
        &mut self,
        number: usize,
        work: Work,
        target: impl FnOnce(&ComponentVersion) -> Option<PathBuf>,
    ) -> io::Result<()> {
        let entry = &self.entries[number];
        let before = self.placed_at(entry);
        // A crash after the journal is written leaves names in it that were never made, which does
        // no harm.
        let after = match work {
            Work::Copy(staged) => {
                self.journal.set(&entry.path, staged.meanwhile(&before), Durability::Full)?;
                let after = staged.plan.after.clone();
                staged.put()?;
                after
            }
            Work::Exchange(staged) => {
                self.journal.set(&entry.path, staged.meanwhile(&before), Durability::Full)?;
                let after = staged.after.clone();
                staged.put(&before)?;
                after
            }
            Work::Link(mut link, component) => {
                link.point_to(component.as_ref().and_then(target).as_deref())?;
                PlacedFiles::nothing(&entry.component)
            }
        };
        self.journal.set(&entry.path, after, Durability::Content)
    }

    /// Makes every path hold the files of `have`, which is exported, whatever it holds now.
    pub(crate) fn restore(&mut self, export: &Export, have: &Contents) {
        self.staged.clear();
        for number in 0..self.entries.len() {
            self.restore_one(number, export, have);
        }
    }

    fn restore_one(&mut self, number: usize, export: &Export, have: &Contents) {
        let staged = self.stage_one(number, export, have);
        let put = staged.and_then(|()| match self.staged.pop_if(|(of, _)| *of == number) {
            Some((_, work)) => {
                self.put_one(number, work, |one| Some(current(export, one))).map_err(|error| error.to_string())
            }
            None => Ok(()),
        });
        self.note(number, put.err());
    }

    /// Remembers the error of an entry, and logs a new one.
    fn note(&mut self, number: usize, error: Option<String>) {
        let path = &self.entries[number].path;
        let before = self.errors.remove(path);
        let Some(error) = error else { return };
        if before.as_ref() != Some(&error) {
            tracing::warn!(path = %path.display(), error, "this path does not hold what is exported");
        }
        self.errors.insert(path.clone(), error);
    }

    /// Returns the state of every entry, in order.
    pub(crate) fn status(&self) -> Vec<PlaceStatus> {
        let of = |entry: &PlaceEntry| PlaceStatus {
            component: entry.component.clone(),
            path: entry.path.clone(),
            mode: entry.mode,
            files: match entry.mode {
                PlaceMode::Copy | PlaceMode::Exchange => {
                    self.journal.at(&entry.path).map_or(0, |placed| placed.files.len())
                }
                PlaceMode::Link => usize::from(entry.path.is_symlink()),
            },
            error: self.errors.get(&entry.path).cloned(),
        };
        self.entries.iter().map(of).collect()
    }
}

/// Refuses entries that contradict each other, the state folder, or the rights of the agent's user.
fn check(entries: &[PlaceEntry], state: &Path) -> anyhow::Result<()> {
    let me = rustix::process::geteuid();
    for (number, PlaceEntry { component, path, owner, .. }) in entries.iter().enumerate() {
        let entry = format!("export of {component} at {}", path.display());
        if nested(path, &real(state)) || nested(path, state) {
            bail!("{entry}: it and the agent's own state, {}, must not contain each other", state.display());
        }
        if let Some(other) = entries[..number].iter().find(|other| nested(path, &other.path)) {
            let (component, path) = (&other.component, other.path.display());
            bail!("{entry}: it and the export of {component} at {path} must not contain each other");
        }
        if !me.is_root() && owner.is_some_and(|owner| owner != me.as_raw()) {
            bail!("{entry}: only root may give files to another user; run the agent as root, or leave owner out");
        }
    }
    Ok(())
}

/// Opens the exported files of an entry's component, if there is one.
fn files_of(entry: &PlaceEntry, export: &Export, contents: &Contents) -> Result<Option<Folder>, String> {
    let hash = entry.matching(contents).next().map(|(_, hash)| hash);
    hash.map(|hash| export.files(hash)).transpose().map_err(|error| error.to_string())
}

/// Returns the target of a link to a component.
fn current(export: &Export, component: &ComponentVersion) -> PathBuf {
    export.path.join(CURRENT).join(component.to_string())
}

/// True if one path is the other, or is in it.
fn nested(one: &Path, other: &Path) -> bool {
    one.starts_with(other) || other.starts_with(one)
}

/// Resolves the links in a path, if it exists.
fn real(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    std::fs::canonicalize(&absolute).unwrap_or(absolute)
}
