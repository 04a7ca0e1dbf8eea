//! Components in the places where programs look for them: `export:` of the host's configuration.
//!
//! The host transaction calls `Placements::stage` before its switch, which writes everything beside its place and tells what
//! cannot be placed, and then `Placements::put`, which renames. `Placements::restore` leads from whatever a crash or a failure
//! has left to the files of what is exported. `entry` is the grammar, `target` the safe way to a folder, `copy` and `link` the
//! work, `journal` what is ours.
//!
//! Always true:
//! - Nothing is replaced or removed that conf-local did not place, but for a file of the same name that the host's own users own.
//! - Nothing is written through a link, nor where another user could put something else in its place.

mod copy;
mod entry;
mod journal;
mod link;
mod target;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
};

use conf_core::daemon::chain;
use libconf::name::{ComponentSelector, ComponentVersion};
use serde::{Deserialize, Serialize};

use crate::export::{CURRENT, Contents, Export};
pub use crate::place::entry::{PlaceEntry, PlaceMode};
use crate::place::{
    copy::Staged,
    journal::{Journal, Ours},
    link::Link,
};

/// All that is placed on this host.
#[derive(Debug)]
pub struct Placements {
    entries: Vec<PlaceEntry>,
    journal: Journal,
    errors: BTreeMap<PathBuf, String>,
    staged: Vec<(usize, Work)>,
    /// Those that were held back in the export since they could not be placed.
    held_back: BTreeSet<ComponentVersion>,
    /// The same of the switch that is being made.
    refused: BTreeSet<ComponentVersion>,
}

/// What is ready to be done at one entry's path.
#[derive(Debug)]
enum Work {
    Copy(Staged),
    Link(Link, Option<ComponentVersion>),
}

/// How one entry fares: an entry of `placements` in `GET /v1/status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlaceStatus {
    /// What is placed.
    pub component: ComponentSelector,
    /// Where.
    pub path: PathBuf,
    /// How.
    pub mode: PlaceMode,
    /// How many files are there by it; a link counts as one.
    pub files: usize,
    /// Why what stands there is not what is exported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Entries that cannot all be, whatever stands on disk.
#[derive(Debug, thiserror::Error)]
#[error("export of {component} at {}: {why}", .path.display())]
pub struct BadPlace {
    component: ComponentSelector,
    path: PathBuf,
    why: String,
}

impl Placements {
    /// Takes the entries of the configuration; what stands at their paths is looked at when something is placed.
    pub fn open(entries: Vec<PlaceEntry>, state: &Path) -> Result<Self, BadPlace> {
        for (number, entry) in entries.iter().enumerate() {
            let bad = |why: String| BadPlace { component: entry.component.clone(), path: entry.path.clone(), why };
            if nested(&entry.path, &real(state)) || nested(&entry.path, state) {
                let state = state.display();
                return Err(bad(format!("it and the agent's own state, {state}, must not stand in each other")));
            }
            if let Some(other) = entries[..number].iter().find(|other| nested(&entry.path, &other.path)) {
                let (component, path) = (&other.component, other.path.display());
                return Err(bad(format!("it and the export of {component} at {path} must not stand in each other")));
            }
            let changes_owner = entry.owner.is_some_and(|owner| owner != rustix::process::geteuid().as_raw());
            if changes_owner && !rustix::process::geteuid().is_root() {
                return Err(bad(
                    "only root may give files to another user; run the agent as root, or leave owner out".to_owned()
                ));
            }
        }
        let mut journal = Journal::open(state);
        let known: BTreeSet<&PathBuf> = entries.iter().map(|entry| &entry.path).collect();
        let gone: Vec<PathBuf> = journal.paths().filter(|path| !known.contains(path)).cloned().collect();
        for path in gone {
            tracing::info!(path = %path.display(), "no longer placed by this host's configuration; its files stay as they are");
            if let Err(error) = journal.forget(&path) {
                tracing::warn!(%error, "the journal of placed files cannot be written");
            }
        }
        Ok(Placements::new(entries, journal))
    }

    fn new(entries: Vec<PlaceEntry>, journal: Journal) -> Self {
        Placements {
            entries,
            journal,
            errors: BTreeMap::new(),
            staged: Vec::new(),
            held_back: BTreeSet::new(),
            refused: BTreeSet::new(),
        }
    }

    /// Places nothing, and leaves what was placed as it is.
    pub fn none(state: &Path) -> Self {
        Placements::new(Vec::new(), Journal::open(state))
    }

    /// True while something is not as it should be: worth another try.
    pub(crate) fn is_troubled(&self) -> bool {
        !self.errors.is_empty() || !self.held_back.is_empty()
    }

    /// True for a component that was held back since it could not be placed.
    pub(crate) fn held_back(&self, component: &ComponentVersion) -> bool {
        self.held_back.contains(component)
    }

    /// Writes what differs from `want` beside its place, and answers whose files cannot be placed, and why: those are placed
    /// nowhere. Entries whose components are as in `have` are left alone, where `have` is given and nothing was wrong with them.
    pub(crate) fn stage(
        &mut self,
        export: &Export,
        have: Option<&Contents>,
        want: &Contents,
    ) -> BTreeMap<ComponentVersion, String> {
        self.staged.clear();
        let mut refused = BTreeMap::new();
        for number in 0..self.entries.len() {
            let PlaceEntry { component, path, .. } = &self.entries[number];
            let of = |contents: &Contents| -> Contents {
                let mine = contents.iter().filter(|(name, _)| component.matches(name));
                mine.map(|(name, hash)| (name.clone(), *hash)).collect()
            };
            if have.is_some_and(|have| of(have) == of(want)) && !self.errors.contains_key(path) {
                continue;
            }
            let path = path.clone();
            let error = self.stage_one(number, export, want).err().map(|(components, why)| {
                let said = format!("it cannot be placed at {}: {why}", path.display());
                refused.extend(components.into_iter().map(|component| (component, said.clone())));
                why
            });
            self.note(&path, error);
        }
        let entries = &self.entries;
        self.staged.retain(|(number, _)| !entries[*number].is_for_any(&refused));
        self.refused = refused.keys().cloned().collect();
        refused
    }

    fn stage_one(
        &mut self,
        number: usize,
        export: &Export,
        want: &Contents,
    ) -> Result<(), (Vec<ComponentVersion>, String)> {
        let entry = &self.entries[number];
        let matching: Vec<&ComponentVersion> = want.keys().filter(|one| entry.component.matches(one)).collect();
        let refused = |why: String| (matching.iter().copied().cloned().collect(), why);
        if matching.len() > 1 {
            let versions: Vec<String> = matching.iter().map(|one| one.version.to_string()).collect();
            return Err(refused(format!("this host runs {} of it; name one in its entry", versions.join(" and "))));
        }
        let component = matching.first().copied();
        if entry.mode == PlaceMode::Link {
            let link = link::look(entry, export.path()).map_err(|why| refused(why.to_string()))?;
            self.staged.push((number, Work::Link(link, component.cloned())));
            return Ok(());
        }
        let files = component.map(|name| export.files(&want[name])).transpose();
        let files = files.map_err(|error| refused(error.to_string()))?;
        let nothing = Ours::nothing(&entry.component);
        let ours = self.journal.at(&entry.path).unwrap_or(&nothing);
        let staged = copy::stage(entry, files.as_ref(), ours).map_err(|why| refused(why.to_string()))?;
        self.staged.extend(staged.map(|staged| (number, Work::Copy(staged))));
        Ok(())
    }

    /// What stands elsewhere than it should, each in one sentence. Writes nothing.
    pub(crate) fn problems(&self, export: &Export, have: &Contents) -> Vec<String> {
        let look = |entry: &PlaceEntry| -> Result<Vec<String>, String> {
            let component = have.keys().find(|one| entry.component.matches(one));
            if entry.mode == PlaceMode::Link {
                let link = link::look(entry, export.path()).map_err(|why| why.to_string())?;
                let right = link.leads_to(component.map(|one| current(export, one)).as_deref());
                return Ok(if right { Vec::new() } else { vec![entry.path.display().to_string()] });
            }
            let files = component.map(|name| export.files(&have[name])).transpose();
            let files = files.map_err(|error| error.to_string())?;
            let nothing = Ours::nothing(&entry.component);
            let ours = self.journal.at(&entry.path).unwrap_or(&nothing);
            copy::differing(entry, files.as_ref(), ours).map_err(|why| why.to_string())
        };
        let found = self.entries.iter().flat_map(|entry| match look(entry) {
            Ok(paths) => {
                paths.into_iter().map(|path| format!("{path} is not as {} is exported", entry.component)).collect()
            }
            Err(why) => vec![format!("{} at {}: {why}", entry.component, entry.path.display())],
        });
        found.collect()
    }

    /// Renames what was staged of `want`. Answers for which components that failed, and why: these have their files of `have`
    /// again everywhere, where the disk lets them. Files that only should have gone are tried again later.
    pub(crate) fn put(
        &mut self,
        export: &Export,
        have: &Contents,
        want: &Contents,
    ) -> BTreeMap<ComponentVersion, String> {
        let mut failed = BTreeMap::new();
        for (number, staged) in std::mem::take(&mut self.staged) {
            // `current` does not lead there yet, and what is staged is there before and after the switch.
            let staged_files = |one: &ComponentVersion| want.get(one).map(|hash| export.staged(hash).join("files"));
            let Err(error) = self.put_one(number, staged, staged_files) else { continue };
            let entry = &self.entries[number];
            let path = entry.path.clone();
            let why = format!("it cannot be placed at {}: {}", path.display(), chain(&error));
            let mine = want.keys().filter(|one| entry.component.matches(one));
            failed.extend(mine.map(|one| (one.clone(), why.clone())));
            self.note(&path, Some(chain(&error)));
        }
        for number in 0..self.entries.len() {
            if self.entries[number].is_for_any(&failed) {
                self.restore_one(number, export, have);
            }
        }
        self.refused.extend(failed.keys().cloned());
        failed
    }

    /// What can be done only when the export has switched: links lead through `current` from now on.
    pub(crate) fn finish(&mut self, export: &Export, want: &Contents) {
        self.held_back = std::mem::take(&mut self.refused);
        for number in 0..self.entries.len() {
            if self.entries[number].mode == PlaceMode::Link {
                self.restore_one(number, export, want);
            }
        }
    }

    /// `files` says where a link is to lead.
    fn put_one(
        &mut self,
        number: usize,
        work: Work,
        files: impl FnOnce(&ComponentVersion) -> Option<PathBuf>,
    ) -> io::Result<()> {
        let entry = &self.entries[number];
        let staged = match work {
            Work::Copy(staged) => staged,
            Work::Link(mut link, component) => return link.lead(component.as_ref().and_then(files).as_deref()),
        };
        let nothing = Ours::nothing(&entry.component);
        let meanwhile = staged.meanwhile(self.journal.at(&entry.path).unwrap_or(&nothing));
        // A crash after this leaves names in the journal that were never made, which does no harm.
        self.journal.set(&entry.path, meanwhile, true)?;
        let after = staged.after();
        staged.put()?;
        self.journal.set(&entry.path, after, false)
    }

    /// Leads to the files of `have`, which is exported, from whatever stands there.
    pub(crate) fn restore(&mut self, export: &Export, have: &Contents) {
        self.staged.clear();
        for number in 0..self.entries.len() {
            self.restore_one(number, export, have);
        }
    }

    fn restore_one(&mut self, number: usize, export: &Export, have: &Contents) {
        let path = self.entries[number].path.clone();
        let staged = self.stage_one(number, export, have).map_err(|(_, why)| why);
        let put = staged.and_then(|()| match self.staged.pop_if(|(of, _)| *of == number) {
            Some((_, work)) => {
                self.put_one(number, work, |one| Some(current(export, one))).map_err(|error| error.to_string())
            }
            None => Ok(()),
        });
        self.note(&path, put.err());
    }

    /// Remembers how a path fares; said once.
    fn note(&mut self, path: &Path, error: Option<String>) {
        let before = self.errors.remove(path);
        let Some(error) = error else { return };
        if before.as_ref() != Some(&error) {
            tracing::warn!(path = %path.display(), error, "what stands there is not what is exported");
        }
        self.errors.insert(path.to_owned(), error);
    }

    /// How every entry fares, in order.
    pub fn status(&self) -> Vec<PlaceStatus> {
        let of = |entry: &PlaceEntry| PlaceStatus {
            component: entry.component.clone(),
            path: entry.path.clone(),
            mode: entry.mode,
            files: match entry.mode {
                PlaceMode::Copy => self.journal.at(&entry.path).map_or(0, |ours| ours.files.len()),
                PlaceMode::Link => usize::from(entry.path.is_symlink()),
            },
            error: self.errors.get(&entry.path).cloned(),
        };
        self.entries.iter().map(of).collect()
    }
}

/// Where a link to a component leads.
fn current(export: &Export, component: &ComponentVersion) -> PathBuf {
    export.path().join(CURRENT).join(component.to_string())
}

/// True when one is the other, or stands in it.
fn nested(one: &Path, other: &Path) -> bool {
    one.starts_with(other) || other.starts_with(one)
}

/// Where a path leads, as far as it is there.
fn real(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    std::fs::canonicalize(&absolute).unwrap_or(absolute)
}
