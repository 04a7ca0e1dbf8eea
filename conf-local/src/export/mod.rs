//! What readers see, `export/`: a new snapshot is built beside the one in use, made durable, and switched to in one step.
//!
//! ```text
//! store/<hash>/files/…, settings.json     a rendering, immutable, named by the hash of its content; shown.json where the
//!                                         settings hold secrets, which stand there by their names
//! names/<hash>/<version>, <version>.json  links into the store: the versions of one component
//! snapshots/<sequence>/<kind>/<name>      link to names/; snapshot.json says which snapshot it is
//! snapshots/<sequence>.<number>           the same as it was before it was made once more
//! current                                 link to snapshots/<sequence>: the one step that a reader sees
//! ```
//!
//! A component that did not change costs one more name of the link that the snapshot before has (measured with 3,000:
//! folders and links made anew take five times as long). A crash at any step leaves `current` as it was, and at most
//! entries that nothing kept leads to, which [`Export::open`] sweeps.

mod error;
mod former;
mod held;
mod older;
mod plan;
mod read;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use conf_core::render::{Content, Rendered, StoreHash};
use libconf::name::{ComponentVersion, Kind, Sequence, Version};

use crate::export::{former::Former, plan::by_name};
use crate::fs::{Entry, Folder, Unsynced};

pub use crate::export::{
    error::ExportError,
    older::{Asking, ask, directory, header, sequences},
    plan::{Contents, Header, Kept, Link, Plan, Retention, outdated, plan},
};

/// The folder `export/`; only one in the system may be open for a path.
#[derive(Debug)]
pub struct Export {
    path: PathBuf,
    root: Folder,
    store: Folder,
    names: Folder,
    snapshots: Folder,
    kept: BTreeMap<Sequence, Kept>,
    /// What somebody may still read in of snapshots that were made once more.
    former: BTreeMap<Former, Contents>,
    current: Option<Sequence>,
    /// Whose links stand in `.next` already.
    next: Option<Sequence>,
    unsynced: Unsynced,
    /// Renderings that something has changed since they were staged.
    suspect: HashSet<StoreHash>,
    salt: Vec<u8>,
}

/// What is being made, until it has its own name.
const NEW: &str = ".new";
/// What is being removed, so that no half of it has a name.
const OLD: &str = ".old";
/// The links of the current snapshot once more, made ahead for the next one.
const NEXT: &str = ".next";
/// With fewer components it is not worth it.
const WORTH_AHEAD: usize = if cfg!(test) { 1 } else { 100 };
/// Beside the settings that hold secrets: the same with their names, for everybody.
pub(crate) const SHOWN: &str = "shown.json";
pub(crate) const CURRENT: &str = "current";
const HEADER: &str = "snapshot.json";
/// Headers name every fault; far above what they come to.
const MOST_HEADER_BYTES: u64 = 16 << 20;
/// What one file or settings may come to; landing allows less.
pub(crate) const MOST_FILE_BYTES: u64 = 64 << 20;

impl Export {
    /// Opens or makes the folder, reads what is there, and removes what a crash left.
    ///
    /// The names of secret renderings depend on `salt`; with another one they count as damaged.
    pub fn open(path: &Path, salt: Vec<u8>) -> Result<Self, ExportError> {
        let failed = |cause| ExportError { act: "open", path: path.to_owned(), cause };
        let path = std::path::absolute(path).map_err(failed)?;
        let root = Folder::open(&path).map_err(failed)?;
        let mut export = Export {
            store: root.enter_or_make("store").map_err(failed)?,
            names: root.enter_or_make("names").map_err(failed)?,
            snapshots: root.enter_or_make("snapshots").map_err(failed)?,
            root,
            path,
            kept: BTreeMap::new(),
            former: BTreeMap::new(),
            current: None,
            next: None,
            unsynced: Unsynced::default(),
            suspect: HashSet::new(),
            salt,
        };
        export.read().and_then(|()| export.sweep()).map_err(failed)?;
        Ok(export)
    }

    /// Its absolute path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where a snapshot's own folder is.
    pub fn directory(&self, sequence: Sequence) -> PathBuf {
        directory(&self.path, sequence)
    }

    /// Where a rendering that was staged is, as a path: what stands in `files` and `settings.json` of it.
    pub(crate) fn staged(&self, hash: &StoreHash) -> PathBuf {
        self.path.join("store").join(hash.to_string())
    }

    /// The folder with a rendering's files.
    pub(crate) fn files(&self, hash: &StoreHash) -> io::Result<Folder> {
        self.store.enter(&hash.to_string())?.enter("files")
    }

    /// True when every user may read all of a rendering: then no secret is in it.
    pub(crate) fn is_for_everybody(&self, hash: &StoreHash) -> io::Result<bool> {
        let mut pending = vec![self.store.enter(&hash.to_string())?];
        while let Some(folder) = pending.pop() {
            for (name, kind) in folder.entries()? {
                match kind {
                    Entry::Folder => pending.push(folder.enter(&name)?),
                    Entry::Link => {}
                    Entry::File | Entry::Other => {
                        if folder.stat(&name)?.is_none_or(|stat| stat.st_mode & 0o004 == 0) {
                            return Ok(false);
                        }
                    }
                }
            }
        }
        Ok(true)
    }

    /// True when a rendering is as it was staged; if not, it is written again when it is staged again.
    pub(crate) fn is_intact(&mut self, hash: &StoreHash) -> bool {
        let intact = self.read_back(&hash.to_string()).is_ok_and(|found| found == *hash);
        if !intact {
            self.suspect.insert(*hash);
        }
        intact
    }

    /// The name of a rendering in the store.
    pub fn hash(&self, rendered: &Rendered) -> StoreHash {
        rendered.hash(&self.salt)
    }

    /// What readers see.
    pub fn current(&self) -> Option<(Sequence, &Kept)> {
        let sequence = self.current?;
        Some((sequence, self.kept.get(&sequence)?))
    }

    /// Puts a rendering into the store, where it is not there yet. `check` reads again what is there, and replaces it
    /// when it is not as it should be.
    pub fn stage(&mut self, rendered: &Rendered, check: bool) -> Result<StoreHash, ExportError> {
        let hash = self.hash(rendered);
        let check = self.suspect.remove(&hash) || check;
        self.stage_as(&hash.to_string(), hash, rendered, check).map_err(|cause| self.failed("write files", cause))?;
        Ok(hash)
    }

    /// Builds the snapshot's folder beside the others, and makes it and all that was staged for it durable. No reader sees it.
    ///
    /// With `anew`, nothing is taken from the snapshot before, and names that are there are looked at.
    pub fn build(&mut self, header: &Header, plan: &Plan, anew: bool) -> Result<(), ExportError> {
        self.build_folder(header, plan, anew).map_err(|cause| self.failed("build a snapshot", cause))
    }

    /// Lets readers see what was built, in one step: its link, or, when its sequence is kept already, the folder itself, which
    /// changes places with the one of before. After that step nothing is an error any more. The link is then made again, for
    /// those who wait for a change of it.
    pub fn switch(&mut self, header: Header, contents: Contents) -> Result<(), ExportError> {
        let sequence = header.sequence;
        let replaces = self.take_up(header, contents)?;
        if let Err(cause) = self.switch_link(&format!("snapshots/{sequence}"), replaces) {
            if !replaces {
                self.kept.remove(&sequence);
            }
            return Err(self.failed("switch", cause));
        }
        self.current = Some(sequence);
        Ok(())
    }

    /// Counts what was built as kept; one that was kept under its sequence before is a former one from now on. True for that.
    fn take_up(&mut self, header: Header, contents: Contents) -> Result<bool, ExportError> {
        let sequence = header.sequence;
        let beside = self.beside(sequence);
        if self.kept.contains_key(&sequence) {
            let exchanged = self.snapshots.exchange(&beside.name(), &sequence.to_string());
            exchanged.map_err(|cause| self.failed("switch", cause))?;
        }
        let Some(before) = self.kept.insert(sequence, Kept { header: Some(header), contents }) else {
            return Ok(false);
        };
        self.former.insert(beside, before.contents);
        if let Err(error) = self.thin_former().and_then(|()| self.snapshots.sync()) {
            tracing::warn!(%error, path = %self.path.display(), "the switch may not survive a power cut");
        }
        Ok(true)
    }

    /// Removes what is not needed any more. Costs nothing when there is nothing to remove.
    pub fn retire(
        &mut self,
        retention: Retention,
        held: &BTreeSet<Sequence>,
        now: SystemTime,
    ) -> Result<(), ExportError> {
        // What was only rendered for operations pushes nothing out that was in use.
        let (older, used): (Vec<Sequence>, Vec<Sequence>) =
            self.kept.keys().partition(|sequence| self.is_older(**sequence));
        let times = used.into_iter().map(|sequence| (sequence, self.placed(sequence)));
        let mut outdated = outdated(&times.collect(), retention, now);
        outdated.extend(older);
        outdated.retain(|sequence| !held.contains(sequence));
        outdated.sort_unstable_by(|one, other| other.cmp(one));
        let gone = self.let_go(outdated, retention, now).map_err(|cause| self.failed("clean up", cause))?;
        for (sequence, _) in &gone {
            self.kept.remove(sequence);
        }
        let former = self.retire_former().map_err(|cause| self.failed("clean up", cause))?;
        if gone.is_empty() && !former {
            return Ok(());
        }
        // The locks last until all of them are away.
        self.discard()
    }

    /// Removes everything that no kept snapshot leads to: what a step that failed has left.
    pub fn discard(&mut self) -> Result<(), ExportError> {
        self.unsynced = Unsynced::default();
        self.sweep().map_err(|cause| self.failed("clean up", cause))
    }

    /// Makes the links of the next snapshot ahead, while nobody waits: most will be those of the current one.
    pub fn prepare_next(&mut self) {
        let worth = self.current().is_some_and(|(_, kept)| kept.contents.len() >= WORTH_AHEAD);
        if !worth || self.next == self.current {
            return;
        }
        // Without it the next snapshot takes a little longer, and says what is wrong.
        let made = self.snapshots.remove(NEXT).and_then(|()| self.make_next());
        self.next = made.ok().and(self.current);
    }

    /// Reads every byte that readers see, and names the components that are not what they should be.
    pub fn damaged(&self) -> BTreeSet<ComponentVersion> {
        let Some((_, kept)) = self.current() else { return BTreeSet::new() };
        let mut good: HashMap<StoreHash, bool> = HashMap::new();
        let damaged = kept.contents.iter().filter(|(_, hash)| {
            !*good.entry(**hash).or_insert_with(|| self.read_back(&hash.to_string()).is_ok_and(|found| found == **hash))
        });
        damaged.map(|(component, _)| component.clone()).collect()
    }

    fn failed(&self, act: &'static str, cause: io::Error) -> ExportError {
        ExportError { act, path: self.path.clone(), cause }
    }

    fn stage_as(&mut self, name: &str, hash: StoreHash, rendered: &Rendered, check: bool) -> io::Result<()> {
        let there = self.store.entry(name)?.is_some();
        if there && !(check && self.read_back(name).ok() != Some(hash)) {
            return Ok(());
        }
        self.store.remove(NEW)?;
        let entry = self.store.make(NEW)?;
        let files = entry.make("files")?;
        let mut folders: BTreeMap<&str, Folder> = BTreeMap::new();
        for (path, content) in &rendered.files {
            for (end, _) in path.match_indices('/') {
                if !folders.contains_key(&path[..end]) {
                    folders.insert(&path[..end], files.make(&path[..end])?);
                }
            }
            let (folder, file) = match path.rsplit_once('/') {
                Some((folder, file)) => (&folders[folder], file),
                None => (&files, path.as_str()),
            };
            match content {
                Content::Link(target) => folder.link(file, target)?,
                Content::File { bytes, executable, secret } => {
                    self.unsynced.add(folder.write(file, bytes, mode_of(*executable, *secret))?);
                }
            }
        }
        let mode = mode_of(false, rendered.settings_secret());
        self.unsynced.add(entry.write("settings.json", &rendered.settings, mode)?);
        if let Some(shown) = &rendered.settings_shown {
            self.unsynced.add(entry.write(SHOWN, shown, 0o444)?);
        }
        for folder in folders.into_values().chain([files, entry]) {
            self.unsynced.add(folder);
        }
        put(&self.store, name, there)
    }

    fn build_folder(&mut self, header: &Header, plan: &Plan, anew: bool) -> io::Result<()> {
        let ahead = self.next.take().is_some_and(|next| !anew && Some(next) == self.current);
        let before = match self.current {
            Some(sequence) if !anew => Some(self.snapshots.enter(&sequence.to_string())?),
            _ => None,
        };
        self.snapshots.remove(NEW)?;
        let folder = if ahead {
            self.snapshots.rename(NEXT, &self.snapshots, NEW)?;
            self.snapshots.enter(NEW)?
        } else {
            self.snapshots.make(NEW)?
        };
        for name in plan.gone.iter().filter(|_| ahead) {
            folder.enter(name.kind.as_str())?.remove(name.name.as_str())?;
        }
        for kind in Kind::ALL {
            let mut links = plan.links.iter().filter(|(name, _)| name.kind == kind).peekable();
            if links.peek().is_none() {
                folder.remove(kind.as_str())?;
                continue;
            }
            let new = folder.enter_or_make(kind.as_str())?;
            let old = before.as_ref().and_then(|before| before.enter(kind.as_str()).ok());
            for (name, link) in links {
                let place = name.name.as_str();
                let shared = match &old {
                    Some(_) if link.keep && ahead => true,
                    Some(old) if link.keep => new.share(old, place).is_ok(),
                    _ => false,
                };
                if !shared {
                    let hash = self.make_names(&link.versions, anew)?;
                    if ahead {
                        new.remove(place)?;
                    }
                    new.link(place, &format!("../../../names/{hash}"))?;
                }
            }
            self.unsynced.add(new);
        }
        self.unsynced.add(folder.write(HEADER, &serde_json::to_vec(header)?, 0o444)?);
        folder.stamp(UNIX_EPOCH + Duration::from_secs(header.time))?;
        self.unsynced.add(folder);
        let kept = self.kept.contains_key(&header.sequence);
        let name = if kept { self.beside(header.sequence).name() } else { header.sequence.to_string() };
        let there = self.snapshots.entry(&name)?.is_some();
        if header.through.is_some() {
            // It is never switched to, so that its name alone says that it is whole: durable first. Otherwise one commit of the
            // journal is enough.
            self.make_durable()?;
        }
        put(&self.snapshots, &name, there)?;
        self.make_durable()
    }

    fn make_next(&self) -> io::Result<()> {
        let Some(current) = self.current else { return Ok(()) };
        let before = self.snapshots.enter(&current.to_string())?;
        let next = self.snapshots.make(NEXT)?;
        for kind in Kind::ALL {
            let Ok(old) = before.enter(kind.as_str()) else { continue };
            let new = next.make(kind.as_str())?;
            for (name, _) in old.entries()? {
                new.share(&old, &name)?;
            }
            new.sync()?;
        }
        Ok(())
    }

    /// Content first, then the folders that lead to it.
    fn make_durable(&mut self) -> io::Result<()> {
        self.unsynced.flush(&self.root)?;
        self.store.sync()?;
        self.names.sync()?;
        self.snapshots.sync()
    }

    /// The folder of links for a component's versions.
    fn make_names(&mut self, versions: &BTreeMap<Version, StoreHash>, anew: bool) -> io::Result<StoreHash> {
        let hash = names_hash(versions);
        let links = names_links(versions);
        let name = hash.to_string();
        let there = self.names.entry(&name)?.is_some();
        if there && !(anew && self.links_in(&name).ok().as_ref() != Some(&links)) {
            return Ok(hash);
        }
        self.names.remove(NEW)?;
        let folder = self.names.make(NEW)?;
        for (link, target) in &links {
            folder.link(link, target)?;
        }
        self.unsynced.add(folder);
        put(&self.names, &name, there)?;
        Ok(hash)
    }

    /// What `current` leads to is looked at, not what it should: a switch that has happened already is none, unless it is to be
    /// seen `again`.
    fn switch_link(&mut self, target: &str, again: bool) -> io::Result<()> {
        let found = self.root.entry(CURRENT)?;
        if found != Some(Entry::Link) || self.root.read_link(CURRENT)? != target {
            if found.is_some_and(|found| found != Entry::Link) {
                // Not ours, and in the way.
                self.root.remove(CURRENT)?;
            }
            self.make_link(target)?;
        } else if again && let Err(error) = self.make_link(target) {
            tracing::warn!(%error, path = %self.path.display(), "processes see the files made anew only at their next look");
        }
        // Readers see it by now; should this fail, a power cut may bring back the snapshot before, whole.
        if let Err(error) = self.root.sync() {
            tracing::warn!(%error, path = %self.path.display(), "the switch may not survive a power cut");
        }
        Ok(())
    }

    fn make_link(&self, target: &str) -> io::Result<()> {
        self.root.remove(NEW)?;
        self.root.link(NEW, target)?;
        self.root.rename(NEW, &self.root, CURRENT).inspect_err(|_| drop(self.root.remove(NEW)))
    }

    /// Removes what nothing kept leads to.
    fn sweep(&mut self) -> io::Result<()> {
        self.next = None;
        self.root.remove(NEW)?;
        let all = || self.kept.values().map(|kept| &kept.contents).chain(self.former.values());
        let stores: HashSet<StoreHash> = all().flat_map(|contents| contents.values().copied()).collect();
        for (name, _) in self.snapshots.entries()? {
            let kept = name.parse::<Sequence>().is_ok_and(|sequence| self.kept.contains_key(&sequence));
            let former = Former::of_name(&name).is_some_and(|former| self.former.contains_key(&former));
            if !kept && !former {
                remove_whole(&self.snapshots, &name)?;
            }
        }
        let mut names = HashSet::new();
        for contents in all() {
            for versions in by_name(contents).values() {
                names.insert(names_hash(versions).to_string());
            }
        }
        for (name, _) in self.names.entries()? {
            if !names.contains(&name) {
                remove_whole(&self.names, &name)?;
            }
        }
        for (name, _) in self.store.entries()? {
            if !name.parse::<StoreHash>().is_ok_and(|hash| stores.contains(&hash)) {
                remove_whole(&self.store, &name)?;
            }
        }
        Ok(())
    }
}

/// The links that stand in the folder of a component's versions.
fn names_links(versions: &BTreeMap<Version, StoreHash>) -> BTreeMap<String, String> {
    let links = |(version, hash): (&Version, &StoreHash)| {
        let store = format!("../../store/{hash}");
        [(version.to_string(), format!("{store}/files")), (format!("{version}.json"), format!("{store}/settings.json"))]
    };
    versions.iter().flat_map(links).collect()
}

/// The name of that folder.
fn names_hash(versions: &BTreeMap<Version, StoreHash>) -> StoreHash {
    let lines: Vec<String> = versions.iter().map(|(version, hash)| format!("{version} {hash}\n")).collect();
    StoreHash::of(&lines.concat())
}

/// What may be done with an exported file.
fn mode_of(executable: bool, secret: bool) -> u32 {
    match (executable, secret) {
        (false, false) => 0o444,
        (true, false) => 0o555,
        (false, true) => 0o600,
        (true, true) => 0o700,
    }
}

/// Gives what was made as `.new` its name; what has that name already goes, in one step.
fn put(folder: &Folder, name: &str, there: bool) -> io::Result<()> {
    if !there {
        return folder.rename(NEW, folder, name);
    }
    folder.exchange(NEW, name)?;
    folder.remove(NEW)
}

/// Takes an entry's name away first, so that a crash leaves no half of it under that name.
fn remove_whole(folder: &Folder, name: &str) -> io::Result<()> {
    if name.starts_with('.') {
        return folder.remove(name);
    }
    folder.remove(OLD)?;
    match folder.rename(name, folder, OLD) {
        Ok(()) => folder.remove(OLD),
        // A full disk refuses even this; then half of it is better than none.
        Err(_) => folder.remove(name),
    }
}

#[cfg(test)]
mod tests;
