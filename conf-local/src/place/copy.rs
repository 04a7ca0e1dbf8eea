//! Placing by copy: everything is written into a folder of our own first, beside its place, then renamed there.
//!
//! [`stage`] looks and writes beside, and changes nothing that anybody reads; [`Staged::put`] renames. Between the two the journal
//! is told. From whatever a crash leaves, `stage` and `put` of the same or of other files lead to those files.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
};

use rustix::fs::Stat;

use crate::place::{
    entry::PlaceEntry,
    journal::Ours,
    target::{self, Making, Refusal, Trusted},
};
use crate::{
    export::MOST_FILE_BYTES,
    fs::{Entry, Folder, Mount, Owner, Unsynced},
};

/// The folder of what is written beside; nobody else gets in.
const STAGING: &str = ".conf-local";

/// All is written beside its place.
#[derive(Debug)]
pub(crate) struct Staged {
    root: Folder,
    making: Making,
    draft: Draft,
}

/// What is to be done at a path.
#[derive(Debug)]
struct Draft {
    staging: Option<Folder>,
    /// From the name in `staging` to the path.
    moves: Vec<(String, String)>,
    /// Of ours and not wanted any more: in the way of something that is, and others.
    first: BTreeSet<String>,
    last: BTreeSet<String>,
    make: BTreeSet<String>,
    /// Folders of ours with another owner or mode than they are to have.
    mend: BTreeSet<String>,
    /// Deepest last.
    unmake: BTreeSet<String>,
    /// What is ours afterwards.
    after: Ours,
}

impl Draft {
    fn is_empty(&self) -> bool {
        [&self.first, &self.last, &self.make, &self.mend, &self.unmake].iter().all(|paths| paths.is_empty())
    }
}

/// What is to stand at a path.
enum Wanted {
    File { mode: u32 },
    Link(String),
}

/// Finds what must change at the entry's path so that exactly `files` stand there besides what is not ours, and writes it beside.
/// Without `files` ours go. `None` when nothing is to be done.
pub(crate) fn stage(entry: &PlaceEntry, files: Option<&Folder>, ours: &Ours) -> Result<Option<Staged>, Refusal> {
    let making = making(entry);
    let trusted = Trusted::new(entry.owner, entry.group);
    let Some(root) = target::open(&entry.path, &trusted, files.map(|_| making))? else { return Ok(None) };
    let place = Place::new(entry, &root, ours, making)?;
    root.remove(STAGING).map_err(|error| place.failed(STAGING, &error))?;
    let (wanted, mut draft, changed) = place.look(files)?;
    if draft.is_empty() && changed.is_empty() && draft.after == *ours {
        return Ok(None);
    }
    if let Some(files) = files.filter(|_| !changed.is_empty()) {
        match write(&root, files, &wanted, &changed, making.owner) {
            Ok((folder, moves)) => (draft.staging, draft.moves) = (Some(folder), moves),
            Err(error) => {
                // What is left of it is removed with the next look, if not now.
                let _ = root.remove(STAGING);
                return Err(place.failed("its files", &error));
            }
        }
    }
    Ok(Some(Staged { root, making, draft }))
}

/// The paths at which something else stands than is to be there. Writes nothing.
pub(crate) fn differing(entry: &PlaceEntry, files: Option<&Folder>, ours: &Ours) -> Result<Vec<String>, Refusal> {
    let trusted = Trusted::new(entry.owner, entry.group);
    let Some(root) = target::open(&entry.path, &trusted, None)? else {
        let missing = files.map(|_| vec![entry.path.display().to_string()]);
        return Ok(missing.unwrap_or_default());
    };
    let place = Place::new(entry, &root, ours, making(entry))?;
    let (_, draft, changed) = place.look(files)?;
    let mut differing: BTreeSet<String> = changed.into_iter().chain(draft.first).chain(draft.mend).collect();
    for path in draft.last {
        let (above, name) = split(&path);
        if enter(&root, above).is_ok_and(|folder| folder.entry(name).is_ok_and(|entry| entry.is_some())) {
            differing.insert(path);
        }
    }
    Ok(differing.into_iter().map(|path| entry.path.join(path).display().to_string()).collect())
}

/// How folders are made there.
fn making(entry: &PlaceEntry) -> Making {
    Making { mode: entry.dir_mode.unwrap_or(0o755), owner: Owner { user: entry.owner, group: entry.group } }
}

/// What is wanted by path, what must be done for it, and the paths that differ.
type Look = (BTreeMap<String, Wanted>, Draft, Vec<String>);

/// Where and for whom.
struct Place<'a> {
    entry: &'a PlaceEntry,
    root: &'a Folder,
    ours: &'a Ours,
    trusted: Trusted,
    making: Making,
    /// That of the root: what is written beside can be renamed nowhere else.
    mount: Mount,
}

impl<'a> Place<'a> {
    fn new(entry: &'a PlaceEntry, root: &'a Folder, ours: &'a Ours, making: Making) -> Result<Self, Refusal> {
        let mount = root.mount(".").map_err(|error| Refusal(format!("{}: {error}", entry.path.display())))?;
        let trusted = Trusted::new(entry.owner, entry.group);
        Ok(Place { entry, root, ours, trusted, making, mount })
    }

    fn failed(&self, what: &str, error: &io::Error) -> Refusal {
        Refusal(format!("{what} in {}: {error}", self.entry.path.display()))
    }

    fn refuse(&self, path: &str, why: &str) -> Refusal {
        Refusal(format!("{} {why}", self.entry.path.join(path).display()))
    }

    /// What is wanted, what must be done for it, and at which paths.
    fn look(&self, files: Option<&Folder>) -> Result<Look, Refusal> {
        let wanted = files.map_or_else(|| Ok(BTreeMap::new()), |files| self.wanted(files))?;
        let mut draft = self.plan(&wanted)?;
        let changed = self.changed(&wanted, files, &mut draft)?;
        draft.last.retain(|path| !draft.first.contains(path));
        Ok((wanted, draft, changed))
    }

    /// What is in the store, as it is to stand here.
    fn wanted(&self, files: &Folder) -> Result<BTreeMap<String, Wanted>, Refusal> {
        let mut wanted = BTreeMap::new();
        let mut read = |above: &str, folder: &Folder| -> io::Result<Vec<String>> {
            let mut folders = Vec::new();
            for (name, kind) in folder.entries()? {
                let path = format!("{above}{name}");
                match kind {
                    Entry::Folder => folders.push(path),
                    Entry::Link => drop(wanted.insert(path, Wanted::Link(folder.read_link(&name)?))),
                    Entry::File | Entry::Other => {
                        let bits = folder.stat(&name)?.map_or(0o444, |stat| stat.st_mode & 0o777);
                        wanted.insert(path, Wanted::File { mode: self.mode(bits) });
                    }
                }
            }
            Ok(folders)
        };
        let failed = |error| self.failed("the export of its files", &error);
        let mut pending = read("", files).map_err(failed)?;
        while let Some(path) = pending.pop() {
            let folder = files.enter(&path).map_err(failed)?;
            pending.extend(read(&format!("{path}/"), &folder).map_err(failed)?);
        }
        if wanted.keys().any(|path| path == STAGING || path.starts_with(&format!("{STAGING}/"))) {
            return Err(
                self.refuse(STAGING, "is a name that conf-local needs for itself; the component must not have it")
            );
        }
        Ok(wanted)
    }

    /// A file's permission bits: the entry's, else those of the export. What holds a secret (not everybody may read it in the
    /// export) is at most for the group too.
    fn mode(&self, exported: u32) -> u32 {
        let Some(mode) = self.entry.file_mode else { return exported };
        let mode = if exported & 0o100 != 0 { mode | (mode & 0o444) >> 2 } else { mode };
        if exported & 0o004 == 0 { mode & !0o007 } else { mode }
    }

    /// Finds which folders are to be made, and what of ours goes; refuses what stands in the way and is not ours.
    fn plan(&self, wanted: &BTreeMap<String, Wanted>) -> Result<Draft, Refusal> {
        let folders: BTreeSet<String> = wanted.keys().flat_map(|path| ways(path)).map(str::to_owned).collect();
        let mut draft = Draft {
            staging: None,
            moves: Vec::new(),
            first: BTreeSet::new(),
            last: self.ours.files.iter().filter(|path| !wanted.contains_key(*path)).cloned().collect(),
            make: BTreeSet::new(),
            mend: BTreeSet::new(),
            unmake: self.ours.folders.iter().filter(|path| !folders.contains(*path)).cloned().collect(),
            after: Ours::nothing(&self.entry.component),
        };
        for path in &folders {
            let (above, name) = split(path);
            if draft.make.contains(above) {
                draft.make.insert(path.clone());
                continue;
            }
            let (folder, stat) = self.stat(path)?;
            let Some(stat) = stat else {
                draft.make.insert(path.clone());
                continue;
            };
            match Entry::of(&stat) {
                Entry::Folder => {
                    self.check_folder(path, &stat)?;
                    self.check_mount(path, &folder, name)?;
                    if self.ours.folders.contains(path) && !self.is_as_made(&stat) {
                        draft.mend.insert(path.clone());
                    }
                }
                Entry::File | Entry::Link if self.ours.files.contains(path) => {
                    draft.first.insert(path.clone());
                    draft.make.insert(path.clone());
                }
                Entry::Link => return Err(self.refuse(path, "is a link that conf-local did not place")),
                _ => return Err(self.refuse(path, "is in the way of a folder, and conf-local did not place it")),
            }
        }
        draft.after.files = wanted.keys().cloned().collect();
        let kept = self.ours.folders.iter().filter(|path| folders.contains(*path));
        draft.after.folders = kept.chain(&draft.make).cloned().collect();
        Ok(draft)
    }

    /// What stands at a path, and the folder that it is in.
    fn stat(&self, path: &str) -> Result<(Folder, Option<Stat>), Refusal> {
        let (above, name) = split(path);
        let look = || -> io::Result<_> {
            let folder = enter(self.root, above)?;
            let stat = folder.stat(name)?;
            Ok((folder, stat))
        };
        look().map_err(|error| self.failed(path, &error))
    }

    fn check_folder(&self, path: &str, stat: &Stat) -> Result<(), Refusal> {
        if !self.trusted.owns(stat.st_uid) {
            let whose = stat.st_uid;
            return Err(self.refuse(path, &format!("belongs to user {whose}, who could change what is placed in it")));
        }
        if !self.trusted.alone_writes(stat) {
            return Err(self.refuse(path, &target::open_to_others(stat)));
        }
        Ok(())
    }

    /// Nothing can be renamed onto or into another mount.
    fn check_mount(&self, path: &str, folder: &Folder, name: &str) -> Result<(), Refusal> {
        match folder.mount(name) {
            Ok(mount) if mount == self.mount => Ok(()),
            Ok(_) => Err(self.refuse(path, "is a mount of its own, to which nothing can be renamed; take it away")),
            Err(error) => Err(self.failed(path, &error)),
        }
    }

    fn is_as_made(&self, stat: &Stat) -> bool {
        let Owner { user, group } = self.making.owner;
        stat.st_mode & 0o7777 == self.making.mode
            && user.is_none_or(|user| user == stat.st_uid)
            && group.is_none_or(|group| group == stat.st_gid)
    }

    /// The wanted paths where something else stands, or nothing.
    fn changed(
        &self,
        wanted: &BTreeMap<String, Wanted>,
        files: Option<&Folder>,
        draft: &mut Draft,
    ) -> Result<Vec<String>, Refusal> {
        let mut changed = Vec::new();
        for (path, wanted) in wanted {
            let (above, name) = split(path);
            if draft.make.contains(above) {
                changed.push(path.clone());
                continue;
            }
            let (folder, stat) = self.stat(path)?;
            let Some(stat) = stat else {
                changed.push(path.clone());
                continue;
            };
            self.check_mount(path, &folder, name)?;
            let ours = self.ours.files.contains(path);
            match (Entry::of(&stat), wanted) {
                (Entry::File, Wanted::File { mode }) => {
                    let whose = stat.st_uid;
                    if !ours && !self.trusted.owns(whose) {
                        return Err(
                            self.refuse(path, &format!("belongs to user {whose}, and conf-local did not place it"))
                        );
                    }
                    let same = self.is_as_wanted(&stat, *mode)
                        && files.is_some_and(|files| {
                            let found = folder.read(name, MOST_FILE_BYTES).ok();
                            found.is_some_and(|(found, _)| {
                                files.read(path, MOST_FILE_BYTES).is_ok_and(|(bytes, _)| bytes == found)
                            })
                        });
                    if !same {
                        changed.push(path.clone());
                    }
                }
                (Entry::Link, _) if !ours => {
                    return Err(self.refuse(path, "is a link that conf-local did not place"));
                }
                (Entry::Link, Wanted::Link(target)) if folder.read_link(name).is_ok_and(|found| found == *target) => {}
                (Entry::File, Wanted::Link(_)) if !ours => {
                    return Err(self.refuse(path, "is in the way of a link, and conf-local did not place it"));
                }
                (Entry::File | Entry::Link, _) => changed.push(path.clone()),
                (Entry::Folder, _) if self.is_all_ours(path).map_err(|error| self.failed(path, &error))? => {
                    let below = format!("{path}/");
                    let mine = |known: &&String| known.starts_with(&below);
                    draft.first.extend(self.ours.files.iter().chain(&self.ours.folders).filter(mine).cloned());
                    draft.first.insert(path.clone());
                    changed.push(path.clone());
                }
                (Entry::Folder, _) => {
                    return Err(
                        self.refuse(path, "is a folder with more in it than conf-local placed; it is in the way")
                    );
                }
                (Entry::Other, _) => return Err(self.refuse(path, "is neither file nor folder; it is in the way")),
            }
        }
        Ok(changed)
    }

    fn is_as_wanted(&self, stat: &Stat, mode: u32) -> bool {
        let user = self.entry.owner.unwrap_or_else(|| rustix::process::geteuid().as_raw());
        stat.st_mode & 0o7777 == mode
            && stat.st_uid == user
            && self.entry.group.is_none_or(|group| group == stat.st_gid)
    }

    /// True when a folder holds nothing but what was placed.
    fn is_all_ours(&self, path: &str) -> io::Result<bool> {
        if !self.ours.folders.contains(path) {
            return Ok(false);
        }
        let folder = enter(self.root, path)?;
        for (name, kind) in folder.entries()? {
            let inner = format!("{path}/{name}");
            let ours = folder.mount(&name)? == self.mount
                && match kind {
                    Entry::Folder => self.is_all_ours(&inner)?,
                    _ => self.ours.files.contains(&inner),
                };
            if !ours {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Writes what changed into a folder of its own, and makes it durable.
fn write(
    root: &Folder,
    files: &Folder,
    wanted: &BTreeMap<String, Wanted>,
    changed: &[String],
    owner: Owner,
) -> io::Result<(Folder, Vec<(String, String)>)> {
    let staging = root.make_owned(STAGING, 0o700, Owner::default())?;
    let (mut unsynced, mut moves) = (Unsynced::default(), Vec::new());
    for (number, path) in changed.iter().enumerate() {
        let name = number.to_string();
        match &wanted[path] {
            Wanted::File { mode } => {
                let (bytes, _) = files.read(path, MOST_FILE_BYTES)?;
                unsynced.add(staging.write_owned(&name, &bytes, *mode, owner)?);
            }
            Wanted::Link(target) => {
                staging.link(&name, target)?;
                staging.own_link(&name, owner)?;
            }
        }
        moves.push((name, path.clone()));
    }
    unsynced.flush(&staging)?;
    Ok((staging, moves))
}

impl Staged {
    /// All that may be ours until `put` has come to its end.
    pub(crate) fn meanwhile(&self, before: &Ours) -> Ours {
        let mut both = self.draft.after.clone();
        both.files.extend(before.files.iter().cloned());
        both.folders.extend(before.folders.iter().cloned());
        both
    }

    /// What is ours when `put` has come to its end.
    pub(crate) fn after(&self) -> Ours {
        self.draft.after.clone()
    }

    /// Lets readers see it. A crash in it leaves whole files, some of them of before.
    pub(crate) fn put(self) -> io::Result<()> {
        let Staged { root, making, draft } = self;
        let Draft { staging, moves, first, last, make, mend, unmake, .. } = draft;
        let mut touched: BTreeSet<&str> = BTreeSet::new();
        // Deepest first, so that a folder is empty when its turn comes.
        for path in first.iter().rev() {
            let (above, name) = split(path);
            let parent = enter(&root, above)?;
            let kind = parent.entry(name)?;
            parent.remove_one(name, kind == Some(Entry::Folder))?;
            touched.insert(above);
        }
        for path in &mend {
            enter(&root, path)?.own(making.mode, making.owner)?;
            touched.insert(path);
        }
        for path in &make {
            let (above, name) = split(path);
            enter(&root, above)?.make_owned(name, making.mode, making.owner)?;
            touched.extend([above, path]);
        }
        if let Some(staging) = &staging {
            for (name, path) in &moves {
                let (above, plain) = split(path);
                staging.rename(name, &enter(&root, above)?, plain)?;
                touched.insert(above);
            }
        }
        for path in &last {
            let (above, name) = split(path);
            // What somebody made of it meanwhile is theirs.
            let Ok(parent) = enter(&root, above) else { continue };
            if matches!(parent.entry(name)?, Some(Entry::File | Entry::Link)) {
                match parent.remove_one(name, false) {
                    Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {}
                    other => other?,
                }
                touched.insert(above);
            }
        }
        for path in unmake.iter().rev().filter(|path| !first.contains(*path)) {
            let (above, name) = split(path);
            let Ok(parent) = enter(&root, above) else { continue };
            match parent.remove_one(name, true) {
                Ok(()) => drop(touched.insert(above)),
                // Somebody has files in it, or made something else of it: theirs from now on.
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::NotADirectory | io::ErrorKind::ResourceBusy
                    ) => {}
                Err(error) => return Err(error),
            }
        }
        for path in touched.into_iter().filter(|path| !unmake.contains(*path)) {
            enter(&root, path)?.sync()?;
        }
        root.remove(STAGING)
    }
}

/// A folder below, or the folder itself.
fn enter(root: &Folder, path: &str) -> io::Result<Folder> {
    root.enter(if path.is_empty() { "." } else { path })
}

/// The folder that a path is in, and its name there.
fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

/// Every folder that a path leads through, the outermost first.
fn ways(path: &str) -> impl Iterator<Item = &str> {
    path.match_indices('/').map(|(end, _)| &path[..end])
}
